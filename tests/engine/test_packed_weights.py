"""Packed weights kept in a file: the same weights, whatever happens to the file."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import Family, write_gguf

from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.packed_file import PREAMBLE, PackedFile, digest, layout_of
from qcode.engine.checkpoint.packed_writer import write_packed
from qcode.engine.engine import Engine
from qcode.engine.kernels.library import DIRECTORY, KernelLibrary, installed, load
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.models.loading import load_model
from qcode.engine.models.packing import PackedModel, pack_model
from qcode.engine.options import EngineOptions, PackedWeightsOptions
from qcode.engine.store.packed_models import packed_files, packed_place
from qcode.protocol.errors import CheckpointError, ModelStoreError
from qcode.protocol.sampling import SamplingParams

pytestmark = pytest.mark.skipif(installed() is None, reason="packed for compiled kernels")

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
}
"""Every row is whole blocks of 256."""
Q, EXPERTS = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.up_proj.weight"


def kernels() -> KernelLibrary:
    library = installed()
    assert library is not None
    return library


def model_file(folder: Path, family: Family = "qwen3_moe", kind: str = "Q4_K") -> Path:
    path = folder / "model.gguf"
    write_gguf(path, family, matrix_type=kind, **WIDE)
    return path


def packed(path: Path) -> PackedModel:
    return pack_model(path, PackedWeightsOptions(), beside=True)


def answer(path: Path, options: PackedWeightsOptions | None) -> tuple[list[int], list[str]]:
    """Greedy tokens, and the lines for the person."""
    engine = Engine.load(path, EngineOptions(context_window=64, packed_weights=options))
    engine.submit([5, 6, 7], SamplingParams(temperature=0, max_tokens=20))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    lines = []
    while not engine.notices.empty():
        lines.append(engine.notices.get())
    return tokens, lines


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q8_0"])
def test_every_matrix_is_bit_for_bit_what_packing_makes(kind: str, tmp_path: Path) -> None:
    path = model_file(tmp_path, kind=kind)
    fresh = GgufCheckpoint(path, torch.float32, torch.device("cpu"))
    mapped = GgufCheckpoint(path, torch.float32, torch.device("cpu"))
    written = packed(path)
    place = packed_place(path, kernels(), PackedWeightsOptions())
    assert place is not None
    mapped.packed = PackedFile(written.path, layout=place.layout, source=place.source)

    shapes = {name: tensor.shape for name, tensor in fresh.file.tensors.items()}
    rows, columns = shapes["blk.0.attn_q.weight"]
    number, up, width = shapes["blk.0.ffn_up_exps.weight"]
    ours = [
        mapped.weight(Q, (rows, columns)),
        *mapped.experts(EXPERTS, (number, up, width)),
    ]
    theirs = [fresh.weight(Q, (rows, columns)), *fresh.experts(EXPERTS, (number, up, width))]

    assert len(ours) == 1 + number
    begin, size = mapped.packed._file._bytes.data_ptr(), written.num_bytes
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, PackedWeight)
        assert isinstance(other, PackedWeight)
        assert torch.equal(one.packed, other.packed)
        assert begin <= one.data_ptr < begin + size  # a view of the file, not a copy


@pytest.mark.parametrize(
    ("family", "kind"),
    [("qwen2", "Q4_K"), ("qwen3", "Q6_K"), ("qwen3_moe", "Q4_K"), ("qwen3_next", "Q8_0")],
)
def test_answers_are_the_same(family: Family, kind: str, tmp_path: Path) -> None:
    path = model_file(tmp_path, family, kind)
    expected, _ = answer(path, None)
    packed(path)
    assert answer(path, PackedWeightsOptions()) == (expected, [])


def test_a_file_that_is_there_is_checked_and_kept_or_written_anew(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    first = packed(path)
    before = first.path.stat().st_mtime_ns
    again = packed(path)
    assert first.is_new
    assert not again.is_new
    assert again.path.stat().st_mtime_ns == before

    content = bytearray(first.path.read_bytes())
    content[-100] ^= 4
    first.path.write_bytes(content)
    assert packed(path).is_new
    assert first.path.read_bytes() != content


def damaged(content: bytes, way: str) -> bytes:
    """A file that must not be used, though its name says so."""
    header_end = PREAMBLE.size + int.from_bytes(content[12:16], "little")
    header = json.loads(content[PREAMBLE.size : header_end])
    match way:
        case "empty":
            return b""
        case "cut":
            return content[:-1]
        case "longer":
            return content + b"x"
        case "cut in the header":
            return content[: PREAMBLE.size + 10]
        case "flipped in the header":
            return content[:100] + bytes([content[100] ^ 1]) + content[101:]
        case "another version":
            return content[:8] + (99).to_bytes(4, "little") + content[12:]
        case "another layout":
            header["layout"] = "0" * 16
        case "another source":
            header["source"] = "00" * 16
        case "no table":
            del header["tensors"]
        case "outside":
            header["tensors"][0]["offset"] = 2**40
        case "overflowing":
            header["tensors"][0]["count"] = 2**62
        case "negative":
            header["tensors"][0]["offset"] = -4096
        case "a list":
            header = []
    text = json.dumps(header).encode()
    preamble = PREAMBLE.pack(content[:8], 1, len(text), digest(text))
    return (preamble + text).ljust(header_end, b" ") + content[header_end:]


WAYS = (
    "empty",
    "cut",
    "longer",
    "cut in the header",
    "flipped in the header",
    "another version",
    "another layout",
    "another source",
    "no table",
    "outside",
    "overflowing",
    "negative",
    "a list",
)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_is_told_of_once_and_not_used(way: str, tmp_path: Path) -> None:
    path = model_file(tmp_path)
    expected, _ = answer(path, None)
    file = packed(path).path
    file.write_bytes(damaged(file.read_bytes(), way))

    tokens, lines = answer(path, PackedWeightsOptions())

    assert tokens == expected
    assert len(lines) == 1
    assert "qcode model optimize" in lines[0]


@given(position=st.integers(0, 4000), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_no_byte_of_the_header_can_be_changed_unnoticed(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one_byte"
    folder.mkdir(exist_ok=True)
    path = folder / "model.gguf"
    if not path.exists():
        model_file(folder)
    file = packed(path).path if not packed_files(path, folder) else packed_files(path, folder)[0]
    place = packed_place(path, kernels(), PackedWeightsOptions())
    assert place is not None
    content = bytearray(file.read_bytes())
    end = PREAMBLE.size + int.from_bytes(content[12:16], "little")
    position %= end
    if content[position] == value:
        return
    content[position] = value
    copy = folder / "copy"
    copy.write_bytes(content)
    with pytest.raises(CheckpointError):
        PackedFile(copy, layout=place.layout, source=place.source)


def test_a_changed_model_makes_the_file_stale(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    packed(path)
    write_gguf(path, "qwen3_moe", matrix_type="Q4_K", seed=3, **WIDE)
    expected, _ = answer(path, None)
    tokens, lines = answer(path, PackedWeightsOptions())
    assert tokens == expected
    assert "another version of the model" in lines[0]


def test_a_model_of_the_store_is_packed_by_its_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    folder.mkdir(parents=True)
    path = model_file(folder)
    options = PackedWeightsOptions(directory=tmp_path / "cache", managed=tmp_path / "models")
    expected, lines = answer(path, options)
    assert lines == []
    wait_for_the_writer(path, options)
    (file,) = packed_files(path, tmp_path / "cache")
    assert file.parent == folder
    assert answer(path, options) == (expected, [])

    file.write_bytes(damaged(file.read_bytes(), "cut"))
    tokens, lines = answer(path, options)
    assert tokens == expected
    assert "written anew" in lines[0]
    wait_for_the_writer(path, options)
    assert answer(path, options) == (expected, [])


def wait_for_the_writer(path: Path, options: PackedWeightsOptions) -> None:
    """It writes behind a load; packing then finds a good file there."""
    for thread in threading.enumerate():
        if thread.name == "packed weights":
            thread.join()
    assert not pack_model(path, options).is_new


def test_other_models_have_theirs_in_the_directory(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    options = PackedWeightsOptions(directory=tmp_path / "cache", managed=tmp_path / "models")
    expected, _ = answer(path, options)
    assert packed_files(path, tmp_path / "cache") == []
    written = pack_model(path, options)
    assert written.path.parent == tmp_path / "cache"
    assert packed_files(path, tmp_path / "cache") == [written.path]
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    for name in (path, link):
        assert load_model(name, packed=options).notices == ()
        assert load_is_mapped(name, options)
    assert answer(link, options) == (expected, [])


def load_is_mapped(path: Path, options: PackedWeightsOptions) -> bool:
    place = packed_place(path, kernels(), options)
    assert place is not None
    return place.open()[0] is not None


def test_variants_that_pack_otherwise_have_files_of_their_own(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    here = layout_of(kernels())
    layouts = {here: kernels()}
    for variant in ("portable", "avx2", "avx512"):
        try:
            library = load(DIRECTORY, variant)
        except OSError:
            continue
        if variant == kernels().variant or variant == "portable":
            layouts.setdefault(layout_of(library), library)
    places = {packed_place(path, library, PackedWeightsOptions()) for library in layouts.values()}
    names = {place.beside.name for place in places if place is not None}
    assert len(names) == len(layouts)


def test_a_reader_keeps_what_it_has_mapped(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    file = packed(path).path
    engine = Engine.load(path, EngineOptions(context_window=64))
    expected, _ = answer(path, None)
    file.unlink()
    file.write_bytes(b"something else")
    engine.submit([5, 6, 7], SamplingParams(temperature=0, max_tokens=20))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    assert tokens == expected


def test_a_file_cut_while_in_use_ends_the_request_and_not_the_process(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    file = packed(path).path
    engine = Engine.load(path, EngineOptions(context_window=64))
    engine.submit([5, 6, 7], SamplingParams(temperature=0, max_tokens=20))
    engine.step()
    os.truncate(file, 4096)
    with pytest.raises(CheckpointError, match="cut short"):
        engine.step()


def _pack_in_child(path: Path, ready: Connection, tell: Connection) -> None:
    ready.recv()
    written = packed(path)
    tell.send(written.is_new)


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    context = multiprocessing.get_context("spawn")
    children, starts, results = [], [], []
    for _ in range(2):
        start_here, start_there = context.Pipe()
        result_here, result_there = context.Pipe()
        child = context.Process(target=_pack_in_child, args=(path, start_there, result_there))
        child.start()
        children.append(child)
        starts.append(start_here)
        results.append(result_here)
    for start in starts:
        start.send(True)
    written = [result.recv() for result in results]
    for child in children:
        child.join()
    assert sorted(written) == [False, True]
    assert not packed(path).is_new
    assert [name.name for name in tmp_path.iterdir() if name.suffix == ".writing"] == []


def _killed_while_writing(path: Path) -> None:
    place = packed_place(path, kernels(), PackedWeightsOptions())
    assert place is not None
    checkpoint = GgufCheckpoint(path, torch.float32, torch.device("cpu"))
    shape = checkpoint.file.tensors["blk.0.attn_q.weight"].shape
    checkpoint.weight(Q, (shape[0], shape[1]))
    write_packed(
        place.beside,
        checkpoint.packable,
        kernels(),
        layout=place.layout,
        source=place.source,
        is_current=lambda: False,
        progress=lambda share: os.kill(os.getpid(), signal.SIGKILL),
    )


def test_what_a_killed_writer_leaves_is_written_over(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    child = multiprocessing.get_context("spawn").Process(target=_killed_while_writing, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [file.suffix for file in tmp_path.iterdir() if file != path] == [".writing"]
    assert packed_files(path, tmp_path) == []
    assert packed(path).is_new
    assert [file.suffix for file in tmp_path.iterdir() if file != path] == [".packed"]
    assert answer(path, PackedWeightsOptions()) == answer(path, None)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder")
    with pytest.raises(ModelStoreError, match="cannot be written"):
        pack_model(path, PackedWeightsOptions(directory=blocked))


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    path = model_file(tmp_path)

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_model(path, PackedWeightsOptions(), beside=True, progress=stop)
    assert list(tmp_path.iterdir()) == [path]


def test_float32_maths_does_not_use_it(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    file = packed(path).path
    exact = load_model(path, exact=True, packed=PackedWeightsOptions())
    os.truncate(file, 4096)
    exact.check_files()  # it is not among the files that are read
