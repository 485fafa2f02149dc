"""Files we lay out, read by the `gguf` package and by our own reader."""

from __future__ import annotations

from array import array
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.checkpoint.gguf import GgufFile, MetadataValue
from qcode.engine.checkpoint.gguf_writer import ALIGNMENT, GgufLayout
from qcode.engine.checkpoint.positioned_file import PositionedFile
from qcode.engine.quantization.block_layouts import GgmlType

METADATA: dict[str, MetadataValue] = {
    "general.architecture": "qwen3",
    "text": "ein Wort, ein Satz: \N{ROCKET}",
    "count": 2**32 - 1,
    "below": -5,
    "large": 2**40,
    "share": 0.25,
    "flag": True,
    "texts": ["a", "", "ç"],
    "flags": [True, False],
    "ids": array("i", [3, -1, 2]),
    "numbers": [1, 2, 3],
    "lists": [["x"], ["y", "z"]],
    "nothing": [],
}


def write(path: Path, metadata: dict[str, MetadataValue], tensors: dict[str, torch.Tensor]) -> None:
    layout = GgufLayout(
        metadata, [(name, tuple(tensor.shape), GgmlType.F32) for name, tensor in tensors.items()]
    )
    with PositionedFile(path, layout.num_bytes) as file:
        for name, tensor in reversed(tensors.items()):  # in any order
            file.write(layout.tensors[name].offset, tensor)
        file.write(0, layout.header)
    assert path.stat().st_size == layout.num_bytes


def test_our_reader_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(5.0), "c": torch.ones(2, 2, 2)}
    write(tmp_path / "x.gguf", METADATA, tensors)
    file = GgufFile(tmp_path / "x.gguf")
    assert {k: list(v) if isinstance(v, array) else v for k, v in file.metadata.items()} == {
        k: list(v) if isinstance(v, array) else v for k, v in METADATA.items()
    }
    for name, tensor in tensors.items():
        assert file.tensors[name].shape == tensor.shape
        assert file.tensors[name].offset % ALIGNMENT == 0
        assert torch.equal(file.raw(name).view(torch.float32).view(tensor.shape), tensor)


def test_the_gguf_package_reads_what_was_written(tmp_path: Path) -> None:
    metadata = {k: v for k, v in METADATA.items() if k not in ("lists", "nothing")}
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(5.0)}
    write(tmp_path / "x.gguf", metadata, tensors)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    for key, value in metadata.items():
        expected = list(value) if isinstance(value, array) else value
        assert reader.fields[key].contents() == expected, key
    kinds = {key: field.types[-1] for key, field in reader.fields.items()}
    kind = gguf.GGUFValueType
    assert (kinds["count"], kinds["below"], kinds["large"]) == (
        kind.UINT32,
        kind.INT32,
        kind.UINT64,
    )
    assert (kinds["share"], kinds["flag"], kinds["ids"]) == (kind.FLOAT32, kind.BOOL, kind.INT32)
    for tensor in reader.tensors:
        expected = tensors[tensor.name].numpy()
        assert np.array_equal(tensor.data.reshape(expected.shape), expected)


def test_rows_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="whole blocks of Q4_K"):
        GgufLayout({}, [("a", (2, 128), GgmlType.Q4_K)])


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        PositionedFile(tmp_path / "x", 10)
    assert (tmp_path / "x").read_text() == "mine"


@settings(max_examples=50, deadline=None)
@given(
    metadata=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        st.one_of(
            st.integers(-(2**63), 2**64 - 1),
            st.floats(width=32, allow_nan=False),
            st.booleans(),
            st.text(st.characters(codec="utf-8")),
            st.lists(st.text(st.characters(codec="utf-8"))),
        ),
        max_size=8,
    ),
)
def test_any_metadata_comes_back(
    metadata: dict[str, MetadataValue], tmp_path_factory: pytest.TempPathFactory
) -> None:
    metadata.pop("general.alignment", None)
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    write(path, metadata, {"a": torch.ones(1)})
    assert GgufFile(path).metadata == metadata
