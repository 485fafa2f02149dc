"""The safetensors reader: reads what the safetensors package writes, refuses everything damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.protocol.errors import CheckpointError


def build(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def opened(content: bytes, path: Path) -> SafetensorsFile:
    file = path / "model.safetensors"
    file.write_bytes(content)
    return SafetensorsFile(file)


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    tensors = {
        "single": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 3, 4).bfloat16(),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    file = SafetensorsFile(path)
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert file.tensors[name].shape == tuple(tensor.shape)
        assert file.tensor(name).dtype == tensor.dtype
        assert torch.equal(file.tensor(name), tensor)


def test_aligned_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    save_file({"t": torch.zeros(1024)}, tmp_path / "model.safetensors")
    file = SafetensorsFile(tmp_path / "model.safetensors")
    assert file.tensor("t").untyped_storage().nbytes() == file.path.stat().st_size


def test_unaligned_data_is_read_all_the_same(tmp_path: Path) -> None:
    text = json.dumps({"t": entry()}).encode()
    text += b" " * (3 - len(text) % 4)
    file = opened(build(text, struct.pack("<2f", 1, 2)), tmp_path)
    assert file.tensors["t"].offset % 4 == 3
    assert file.tensor("t").tolist() == [1, 2]


DTYPES = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float16", "bfloat16", "float32", "float64",
]  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_is_a_view_of_the_file(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    tensor = torch.arange(48, dtype=torch.uint8).remainder(2).view(dtype).view(2, -1)
    save_file({"t": tensor}, tmp_path / "model.safetensors")
    file = SafetensorsFile(tmp_path / "model.safetensors")
    stored = file.tensor("t")
    assert stored.dtype == dtype
    assert stored.shape == tensor.shape
    assert torch.equal(stored.view(torch.uint8), tensor.view(torch.uint8))
    assert stored.untyped_storage().nbytes() == file.path.stat().st_size


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "seven bytes": (bytes(7), "not a safetensors file"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", "not a safetensors file"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
    "not JSON": (build(b"{"), "not JSON"),
    "not UTF-8": (build(b'{"\xff": 1}'), "not JSON"),
    "deeply nested": (build(b'{"a":' + b"[" * 100_000), "not JSON"),
    "a list": (build([]), "not a JSON object"),
    "same name twice": (build(b'{"t": 1, "t": 2}'), "twice"),
    "entry not an object": (build({"t": 5}), "'t' is malformed"),
    "no type": (build({"t": {"shape": [], "data_offsets": [0, 4]}}), "'t' is malformed"),
    "one offset": (build({"t": entry(offsets=(0,))}, bytes(8)), "'t' is malformed"),
    "offset as text": (build({"t": entry(offsets=("0", 8))}, bytes(8)), "'t' is malformed"),
    "unknown type": (build({"t": entry("F7")}, bytes(8)), "'t' has the unknown type 'F7'"),
    "negative dimension": (build({"t": entry(shape=(-2,))}, bytes(8)), "'t'.*shape"),
    "dimension true": (build({"t": entry(shape=(True, 2))}, bytes(8)), "'t'.*shape"),
    "nine dimensions": (build({"t": entry(shape=(1,) * 8 + (2,))}, bytes(8)), "'t'.*shape"),
    "empty, and too large": (
        build({"t": entry(shape=(0, 2**32, 2**32), offsets=(0, 0))}),
        "'t'.*shape",
    ),
    "product overflows": (build({"t": entry(shape=(2**32, 2**32))}, bytes(8)), "'t'.*shape"),
    "wrong size": (build({"t": entry(shape=(3,))}, bytes(8)), "'t'.*bytes from 0 to 8"),
    "negative offset": (build({"t": entry(offsets=(-8, 0))}, bytes(8)), "'t'.*bytes"),
    "cut": (build({"t": entry()}, bytes(7)), "incomplete"),
    "bytes left over": (build({"t": entry()}, bytes(9)), "incomplete"),
    "gap at the start": (build({"t": entry(offsets=(4, 12))}, bytes(12)), "'t'.*gap"),
    "gap between": (
        build({"t": entry(), "u": entry(offsets=(12, 20))}, bytes(20)),
        "'u'.*gap",
    ),
    "overlap": (build({"t": entry(), "u": entry(offsets=(4, 12))}, bytes(12)), "'u' overlaps"),
    "long name": (build({"n" * 65537: entry()}, bytes(8)), "name is too long"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        opened(content, tmp_path)
    assert "model.safetensors" in error.value.message


def test_a_header_that_would_take_many_times_its_size(tmp_path: Path) -> None:
    """Twelve megabytes of text, of which Python makes four million lists."""
    text = b'{"t":[' + b"[]," * (2 * 2**20) + b"[]]}"
    with pytest.raises(CheckpointError, match="too many values"):
        opened(len(text).to_bytes(8, "little") + text, tmp_path)
