"""Reads safetensors files, mapped and never copied.

The header is not trusted: it is checked whole before any tensor is made, and whatever is wrong
raises one CheckpointError. Format: the safetensors README.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from qcode.engine.checkpoint.json_file import holds_too_much
from qcode.engine.checkpoint.mapped_file import MappedFile
from qcode.protocol.errors import CheckpointError

MAX_HEADER_BYTES = 100 * 2**20
MAX_NAME_BYTES = 64 * 2**10
MAX_DIMS = 8

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsTensor:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    num_bytes: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


class SafetensorsFile:
    """The tensors of a safetensors file as views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError naming the file and, where there is one, the tensor."""
        self._file = MappedFile(path)
        self.path = path
        self.tensors = _parse(self._file)

    def tensor(self, name: str) -> Tensor:
        """A view of the file in the stored dtype. Raises CheckpointError."""
        info = self.tensors[name]
        raw = self._file.view(info.offset, info.num_bytes)
        if info.offset % info.torch_dtype.itemsize:
            raw = raw.clone()  # torch cannot view unaligned bytes as numbers
        return raw.view(info.torch_dtype).view(info.shape)

    def check(self) -> None:
        """Raises CheckpointError when the file has been cut since it was opened."""
        self._file.check()

    def expect_scattered_reads(self, is_scattered: bool) -> None:
        """As `MappedFile.expect_scattered_reads`."""
        self._file.expect_scattered_reads(is_scattered)

    def release(self) -> None:
        """Let go of the memory behind all that was read; reading it again is slower."""
        self._file.release(0, self._file.size)


def _parse(file: MappedFile) -> Mapping[str, SafetensorsTensor]:
    def fail(message: str) -> NoReturn:
        raise CheckpointError(f"{file.path}: {message}")

    header_bytes = int.from_bytes(file.buffer[:8], "little")
    start = 8 + header_bytes
    if file.size < 8 or header_bytes > MAX_HEADER_BYTES or start > file.size:
        fail("not a safetensors file, or cut short")
    header = _parse_header(file.buffer[8:start], fail)
    header.pop("__metadata__", None)
    tensors = [_tensor_info(name, entry, start, fail) for name, entry in header.items()]
    tensors.sort(key=attrgetter("offset", "num_bytes"))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            fail(f"tensor {tensor.name!r} overlaps another or leaves a gap before it")
        end += tensor.num_bytes
    if end != file.size:
        fail(f"its tensors take {end} bytes but the file has {file.size}; it may be incomplete")
    return {tensor.name: tensor for tensor in tensors}


def _parse_header(text: bytes, fail: Callable[[str], NoReturn]) -> dict[str, object]:
    def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) < len(pairs):
            fail("the header names something twice")
        return result

    if holds_too_much(text):
        fail("the header has too many values")
    try:
        header = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        fail(f"the header is not JSON: {error}")
    if not isinstance(header, dict):
        fail("the header is not a JSON object")
    return header


def _tensor_info(
    name: str, entry: object, start: int, fail: Callable[[str], NoReturn]
) -> SafetensorsTensor:
    """One header entry, its offsets counted from the start of the file at `start`."""
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        fail("a tensor name is too long")
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            fail(f"the header entry of tensor {name!r} is malformed")
    if dtype not in DTYPES:
        fail(f"tensor {name!r} has the unknown type {dtype!r}")
    is_shape = len(shape) <= MAX_DIMS and all(type(dim) is int and dim >= 0 for dim in shape)
    # An empty tensor takes no bytes, whatever its other dimensions are.
    if not is_shape or prod(max(dim, 1) for dim in shape) >= 2**63:
        fail(f"tensor {name!r} has the impossible shape {shape}")
    num_bytes = prod(shape) * DTYPES[dtype].itemsize
    if begin < 0 or end - begin != num_bytes:
        fail(f"tensor {name!r} of shape {shape} does not take the bytes from {begin} to {end}")
    return SafetensorsTensor(
        name=name, dtype=dtype, shape=tuple(shape), offset=start + begin, num_bytes=num_bytes
    )
