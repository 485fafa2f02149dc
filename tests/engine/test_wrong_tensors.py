"""Files with a sound header whose tensors are not those of the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from random_checkpoint import write_gguf

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.engine.models.loading import load_model
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.protocol.errors import CheckpointError, UnsupportedModel

Tensor = tuple[str, tuple[int, ...], GgmlType]
SPARSE_BYTES = 2**36


def taller(tensor: Tensor) -> Tensor:
    name, shape, kind = tensor
    return name, (shape[0] + 32, *shape[1:]), kind


def wider(tensor: Tensor) -> Tensor:
    name, shape, kind = tensor
    return name, (*shape[:-1], shape[-1] + 32), kind


def flatter(tensor: Tensor) -> Tensor:
    name, shape, kind = tensor
    return (name, (shape[0] * shape[1], *shape[2:]), kind) if len(shape) > 1 else wider(tensor)


def missing(tensor: Tensor) -> None:
    del tensor


TOLD_INSTEAD = {
    # Its rows are the vocabulary, which must fit the output and the tokenizer.
    "token_embd.weight": ("output.weight", "the tokenizer has"),
    # Without a router a layer has an ordinary network instead of experts.
    "blk.0.ffn_gate_inp.weight": ("blk.0.ffn_gate.weight",),
}
"""What else may be told to be wrong when this tensor is."""

CHANGES: tuple[Callable[[Tensor], Tensor | None], ...] = (taller, wider, flatter, missing)


@pytest.fixture
def sound(tmp_path: Path) -> GgufFile:
    write_gguf(tmp_path / "sound.gguf", "qwen3_moe", num_hidden_layers=2, matrix_type="Q8_0")
    return GgufFile(tmp_path / "sound.gguf")


def with_one_changed(
    sound: GgufFile, change: Callable[[Tensor], Tensor | None]
) -> Iterator[tuple[str, Path]]:
    """For each tensor of a file: its name, and a file in which it alone is another one."""
    tensors = [(t.name, t.shape, GgmlType(t.ggml_type)) for t in sound.tensors.values()]
    path = sound.path.with_name("changed.gguf")
    for index, tensor in enumerate(tensors):
        changed = change(tensor)
        rest = tensors[:index] + ([changed] if changed else []) + tensors[index + 1 :]
        layout = GgufLayout(sound.metadata, rest)
        with path.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.num_bytes)
        yield tensor[0], path


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_wrong_tensor_and_its_file_are_named(
    change: Callable[[Tensor], Tensor | None], sound: GgufFile
) -> None:
    messages: list[tuple[str, str]] = []
    for name, path in with_one_changed(sound, change):
        try:
            load_model(path)
        except CheckpointError as error:
            messages.append((name, error.message))
    for name, message in messages:
        assert "changed.gguf" in message
        assert any(told in message for told in (name, *TOLD_INSTEAD.get(name, ()))), message
    expected = set(sound.tensors)
    if change is missing:
        # Without an output matrix the embedding is used.
        expected.discard("output.weight")
    assert {name for name, _ in messages} == expected


def test_a_type_that_is_no_weight_is_refused(sound: GgufFile) -> None:
    kinds = {kind for kind in BLOCK_LAYOUTS if kind not in {*GgmlType}}
    content = bytearray(sound.path.read_bytes())
    name = b"blk.0.ffn_norm.weight"
    place = content.index(name) + len(name) + 4 + 8
    for kind in sorted(kinds):
        if BLOCK_LAYOUTS[kind].block_size > 1:
            continue
        content[place : place + 4] = kind.to_bytes(4, "little")
        sound.path.with_name("changed.gguf").write_bytes(content + bytes(1024))
        with pytest.raises((UnsupportedModel, CheckpointError)):
            load_model(sound.path.with_name("changed.gguf"))


def sparse_gguf(path: Path) -> None:
    layout = GgufLayout(
        {"general.architecture": "qwen2"}, [("vast", (SPARSE_BYTES // 4,), GgmlType.F32)]
    )
    with path.open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.num_bytes)


def sparse_safetensors(path: Path) -> None:
    entry = (
        f'{{"vast":{{"dtype":"U8","shape":[{SPARSE_BYTES}],"data_offsets":[0,{SPARSE_BYTES}]}}}}'
    )
    with path.open("wb") as file:
        file.write(len(entry).to_bytes(8, "little") + entry.encode())
        file.truncate(8 + len(entry) + SPARSE_BYTES)


@pytest.mark.parametrize(
    ("write", "read"),
    [(sparse_gguf, GgufFile), (sparse_safetensors, SafetensorsFile)],
    ids=["gguf", "safetensors"],
)
def test_opening_reads_no_tensor(
    write: Callable[[Path], None],
    read: Callable[[Path], GgufFile | SafetensorsFile],
    tmp_path: Path,
) -> None:
    """A file of 64 GiB that takes no room on disk, because nothing but its header was written."""
    path = tmp_path / "model.file"
    write(path)
    started = time.process_time()
    file = read(path)
    assert time.process_time() - started < 1
    assert file.tensors["vast"].num_bytes == SPARSE_BYTES
    assert resident_kib(path) <= 256


def resident_kib(path: Path) -> int:
    """Resident memory of this process's mappings of a file."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total
