"""Models split into several GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from random_checkpoint import write_gguf

from qcode.engine.checkpoint.gguf import GgufFile, MetadataValue
from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.gguf_parts import GgufParts
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.models.loading import load_model
from qcode.engine.quantization.block_layouts import GgmlType
from qcode.protocol.errors import CheckpointError

TITLES = ("model-00001-of-00003.gguf", "model-00002-of-00003.gguf", "model-00003-of-00003.gguf")


def write_part(
    path: Path, source: GgufFile, names: list[str], metadata: Mapping[str, MetadataValue]
) -> None:
    infos = [source.tensors[name] for name in names]
    layout = GgufLayout(metadata, [(t.name, t.shape, GgmlType(t.ggml_type)) for t in infos])
    with path.open("wb") as file:
        file.write(layout.header)
        for name in names:
            file.seek(layout.tensors[name].offset)
            file.write(source.raw(name).numpy().tobytes())
        file.truncate(layout.num_bytes)


def part_metadata(source: GgufFile, index: int, **changes: MetadataValue) -> dict:
    """As llama.cpp splits: all metadata in the first part, in the others only which they are."""
    split: dict[str, MetadataValue] = {
        "split.no": index,
        "split.count": 3,
        "split.tensors.count": len(source.tensors),
    }
    split |= {f"split.{key}": value for key, value in changes.items()}
    return dict(source.metadata) | split if index == 0 else split


@pytest.fixture
def whole(tmp_path: Path) -> GgufFile:
    write_gguf(tmp_path / "whole.gguf", "qwen3_moe", seed=5, matrix_type="Q8_0")
    return GgufFile(tmp_path / "whole.gguf")


@pytest.fixture
def parts(whole: GgufFile) -> list[Path]:
    names = list(whole.tensors)
    paths = [whole.path.with_name(title) for title in TITLES]
    for index, path in enumerate(paths):
        write_part(path, whole, names[index::3], part_metadata(whole, index))
    return paths


def rewrite(whole: GgufFile, parts: list[Path], index: int, **changes: MetadataValue) -> None:
    names = list(whole.tensors)[index::3]
    write_part(parts[index], whole, names, part_metadata(whole, index, **changes))


def test_any_part_opens_the_whole_model(whole: GgufFile, parts: list[Path]) -> None:
    for path in parts:
        model = GgufParts(path)
        assert model.path == parts[0]
        assert set(model.tensors) == set(whole.tensors)
        for name in whole.tensors:
            assert torch.equal(model.raw(name), whole.raw(name))
        assert all(model.metadata[key] == whole.metadata[key] for key in whole.metadata)


def test_weights_and_tokens_are_those_of_the_single_file(
    whole: GgufFile, parts: list[Path]
) -> None:
    together, apart = load_model(whole.path), load_model(parts[1])
    assert apart.config == together.config
    assert apart.tokenizer.encode("def main") == together.tokenizer.encode("def main")
    ids = torch.arange(40)
    assert torch.equal(apart.model.embed_tokens(ids), together.model.embed_tokens(ids))
    matrix = "model.layers.0.mlp.gate.weight"
    shape = (apart.config.experts.num_experts, apart.config.hidden_size)
    stored = [
        GgufCheckpoint(path, torch.float32, torch.device("cpu")).weight(matrix, shape)
        for path in (whole.path, parts[2])
    ]
    assert torch.equal(stored[0].dequantize(), stored[1].dequantize())


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    for path in (parts[0], parts[2]):
        with pytest.raises(CheckpointError, match=r"00002-of-00003.gguf: part 2 of 3 is missing"):
            GgufParts(path)


def test_a_name_that_does_not_tell_where_the_others_are(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("renamed.gguf"))
    with pytest.raises(CheckpointError, match=r"renamed.gguf: it is one of 3 parts"):
        GgufParts(renamed)


CONTRADICTIONS: dict[str, tuple[dict[str, MetadataValue], str]] = {
    "another count": ({"count": 4}, "00002-of-00003.gguf: it is one of 4 parts"),
    "another number": ({"no": 2}, "00002-of-00003.gguf: it says to be part 3, not 2"),
    "another model": ({"tensors.count": 7}, "00002-of-00003.gguf: a part of another model"),
    "number as text": ({"no": "1"}, "00002-of-00003.gguf: split.no is '1'"),
    "negative number": ({"no": -5}, "00002-of-00003.gguf: split.no is -5"),
    "count as text": ({"count": "3"}, "00002-of-00003.gguf: split.count is '3'"),
}


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_name_the_part(
    whole: GgufFile,
    parts: list[Path],
    changes: dict[str, MetadataValue],
    message: str,
) -> None:
    rewrite(whole, parts, 1, **changes)
    with pytest.raises(CheckpointError, match=message):
        GgufParts(parts[0])


def test_a_tensor_in_two_parts(whole: GgufFile, parts: list[Path]) -> None:
    names = list(whole.tensors)
    write_part(parts[2], whole, [names[0], *names[2::3]], part_metadata(whole, 2))
    with pytest.raises(CheckpointError, match=r"00003-of-00003.gguf: tensor .* is in .*00001-of"):
        GgufParts(parts[0])


def test_a_tensor_in_no_part(whole: GgufFile, parts: list[Path]) -> None:
    write_part(parts[2], whole, list(whole.tensors)[5::3], part_metadata(whole, 2))
    with pytest.raises(CheckpointError, match="all parts together should hold"):
        GgufParts(parts[0])


def test_a_part_of_another_architecture(whole: GgufFile, parts: list[Path]) -> None:
    metadata = part_metadata(whole, 1) | {"general.architecture": "qwen2"}
    write_part(parts[1], whole, list(whole.tensors)[1::3], metadata)
    with pytest.raises(CheckpointError, match=r"00002-of-00003.gguf: a part of another model"):
        GgufParts(parts[2])


def test_a_damaged_part_is_named(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"00003-of-00003.gguf: .* reaches past the end"):
        GgufParts(parts[0])


@pytest.mark.parametrize("count", [0, 1])
def test_one_file_may_say_that_it_is_not_split(whole: GgufFile, count: int) -> None:
    path = whole.path.with_name("alone.gguf")
    metadata = dict(whole.metadata) | {"split.count": count, "split.no": 0}
    write_part(path, whole, list(whole.tensors), metadata)
    assert set(GgufParts(path).tensors) == set(whole.tensors)


def test_part_names() -> None:
    assert split_part_names(TITLES[1]) == TITLES
    for name in ("model.gguf", "model-00000-of-00003.gguf", "model-00004-of-00003.gguf", "-00001"):
        assert split_part_names(name) == ()


def test_the_mix_of_types_is_counted_in_bytes(whole: GgufFile, parts: list[Path]) -> None:
    mix = GgufCheckpoint(parts[0], torch.float32, torch.device("cpu")).format_mix()
    assert list(mix) == ["Q8_0", "F32"]
    assert sum(mix.values()) == sum(tensor.num_bytes for tensor in whole.tensors.values())
