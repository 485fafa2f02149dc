"""Reads GGUF files, versions 2 and 3: metadata and tensors, mapped and never copied.

The file is not trusted: every count, length and offset is checked against the bytes that are
there before anything of that size is made, and whatever is wrong raises one CheckpointError.
Format: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import NoReturn, TypeAlias

from torch import Tensor

from qcode.engine.checkpoint.mapped_file import MappedFile
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS
from qcode.protocol.errors import CheckpointError

MetadataValue: TypeAlias = "int | float | bool | str | Sequence[MetadataValue]"

MAGIC = b"GGUF"
MAX_METADATA_BYTES = 100 * 2**20
MAX_VALUES = 4 * 2**20
"""Of entries, strings, lists and flags: in memory they take up to thirty times what they take in a
file. A vocabulary and its merges are 300 thousand."""
MAX_TENSORS = 2**18
MAX_NAME_BYTES = 64 * 2**10
MAX_DIMS = 8
MAX_ARRAY_DEPTH = 4
MAX_ALIGNMENT = 2**16

SCALAR_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9

SMALLEST_STRING_BYTES = 8
SMALLEST_ARRAY_BYTES = 4 + 8

SMALLEST_PAIR_BYTES = 8 + 4 + 1
SMALLEST_TENSOR_INFO_BYTES = 8 + 4 + 4 + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """Where one tensor lies; `shape` in torch order, so its last axis is the contiguous one."""

    name: str
    ggml_type: int
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    num_bytes: int

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


class GgufFile:
    """The metadata of a GGUF file, and its tensors as views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError naming the file and, where there is one, the key or tensor."""
        self._file = MappedFile(path)
        self.path = path
        self.metadata, self.tensors = _parse(self._file)

    def raw(self, name: str) -> Tensor:
        """[num_bytes] uint8: the packed bytes of a tensor. Raises CheckpointError."""
        tensor = self.tensors[name]
        return self._file.view(tensor.offset, tensor.num_bytes)

    def check(self) -> None:
        """Raises CheckpointError when the file has been cut since it was opened."""
        self._file.check()

    def release(self, name: str) -> None:
        """Let go of the memory behind a tensor whose bytes have been copied elsewhere."""
        tensor = self.tensors[name]
        self._file.release(tensor.offset, tensor.num_bytes)


def _parse(file: MappedFile) -> tuple[Mapping[str, MetadataValue], Mapping[str, GgufTensor]]:
    reader = _Reader(file)
    if reader.take(4) != MAGIC:
        reader.fail("not a GGUF file")
    version = reader.scalar("I")
    if version not in (2, 3):
        reader.fail(f"GGUF version {version}; versions 2 and 3 can be read")
    num_tensors = reader.count("tensors", SMALLEST_TENSOR_INFO_BYTES)
    if num_tensors > MAX_TENSORS:
        reader.fail(f"{num_tensors} tensors; {MAX_TENSORS} can be read")
    num_pairs = reader.count("metadata entries", SMALLEST_PAIR_BYTES)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_pairs):
        key = reader.name()
        if key in metadata:
            reader.fail(f"metadata key {key!r} appears twice")
        metadata[key] = reader.value(reader.scalar("I"))
    infos = [reader.tensor_info() for _ in range(num_tensors)]
    alignment, start = _data_start(reader, metadata)
    tensors = {info.name: _place(reader, info, alignment, start) for info in infos}
    if len(tensors) != num_tensors:
        reader.fail("two tensors have the same name")
    _check_overlap(reader, tensors.values())
    return metadata, tensors


class _Reader:
    """A position in the metadata that never reads past its end."""

    def __init__(self, file: MappedFile) -> None:
        self._path = file.path
        self._buffer = file.buffer
        self._end = min(file.size, MAX_METADATA_BYTES)
        self._values_left = MAX_VALUES
        self.file_size = file.size
        self.position = 0

    def fail(self, message: str) -> NoReturn:
        raise CheckpointError(f"{self._path}: {message}")

    def take(self, num_bytes: int) -> bytes:
        start, end = self.position, self.position + num_bytes
        if end > self._end:
            self.fail(f"the metadata breaks off or is too large at byte {start}")
        self.position = end
        return self._buffer[start:end]

    def scalar(self, code: str) -> int:
        """One unsigned integer of struct format `code`."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]
        return value

    def count(self, what: str, smallest_bytes: int) -> int:
        """A number of things to follow, each of at least `smallest_bytes`."""
        value = self.scalar("Q")
        if value * smallest_bytes > self._end - self.position:
            self.fail(f"{value} {what} cannot fit into the file")
        self._values_left -= value
        if self._values_left < 0:
            self.fail(f"more than {MAX_VALUES} values in the metadata")
        return value

    def name(self) -> str:
        length = self.scalar("Q")
        if not 1 <= length <= MAX_NAME_BYTES:
            self.fail(f"a name of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.fail(f"a name that is not UTF-8 at byte {self.position - length}")

    def value(self, kind: int, depth: int = 0) -> MetadataValue:
        if kind == STRING:
            return self.take(self.scalar("Q")).decode(errors="replace")
        if kind == ARRAY:
            if depth == MAX_ARRAY_DEPTH:
                self.fail("metadata arrays are nested too deeply")
            return self._array(depth + 1)
        return self._numbers(kind, 1)[0]

    def _array(self, depth: int) -> Sequence[MetadataValue]:
        kind = self.scalar("I")
        if kind == STRING:
            return self._strings(self.count("strings", SMALLEST_STRING_BYTES))
        if kind == ARRAY:
            count = self.count("arrays", SMALLEST_ARRAY_BYTES)
            return [self.value(kind, depth) for _ in range(count)]
        if kind == BOOL:
            return self._numbers(kind, self.count("flags", 1))
        return self._numbers(kind, self.scalar("Q"))

    def _strings(self, count: int) -> list[str]:
        # A vocabulary is hundreds of thousands of these: `value` for each takes twice as long.
        read_length = struct.Struct("<Q").unpack_from
        strings = []
        position = self.position
        for _ in range(count):
            if position + 8 > self._end:
                break
            start = position + 8
            position = start + read_length(self._buffer, position)[0]
            if position > self._end:
                break
            strings.append(self._buffer[start:position].decode(errors="replace"))
        if len(strings) < count:
            self.fail("an array of strings breaks off")
        self.position = position
        return strings

    def _numbers(self, kind: int, count: int) -> Sequence[int | float | bool]:
        if kind == BOOL:
            flags = self.take(count)
            if flags.strip(b"\0\1"):
                self.fail("a boolean that is neither 0 nor 1")
            return [flag == 1 for flag in flags]
        if kind not in SCALAR_CODES:
            self.fail(f"unknown metadata type {kind}")
        numbers = array(SCALAR_CODES[kind])
        numbers.frombytes(self.take(count * numbers.itemsize))
        return numbers

    def tensor_info(self) -> GgufTensor:
        """A tensor whose `offset` still counts from the start of the data."""
        name = self.name()
        num_dims = self.scalar("I")
        if not 1 <= num_dims <= MAX_DIMS:
            self.fail(f"tensor {name!r} has {num_dims} dimensions")
        dims = struct.unpack(f"<{num_dims}Q", self.take(8 * num_dims))
        kind = self.scalar("I")
        offset = self.scalar("Q")
        if kind not in BLOCK_LAYOUTS:
            self.fail(f"tensor {name!r} has the unknown type {kind}")
        block = BLOCK_LAYOUTS[kind]
        if 0 in dims or dims[0] % block.block_size:
            self.fail(f"tensor {name!r} of type {block.name} has the impossible shape {dims}")
        return GgufTensor(
            name=name,
            ggml_type=kind,
            shape=tuple(reversed(dims)),
            offset=offset,
            num_bytes=prod(dims) // block.block_size * block.block_bytes,
        )


def _data_start(reader: _Reader, metadata: Mapping[str, MetadataValue]) -> tuple[int, int]:
    """The alignment of the data, and the byte where it starts."""
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment % 8:
        reader.fail(f"impossible general.alignment {alignment!r}")
    return alignment, -(-reader.position // alignment) * alignment


def _place(reader: _Reader, info: GgufTensor, alignment: int, start: int) -> GgufTensor:
    if info.offset % alignment:
        reader.fail(f"tensor {info.name!r} is not aligned to {alignment} bytes")
    offset = start + info.offset
    if offset + info.num_bytes > reader.file_size:
        reader.fail(f"tensor {info.name!r} reaches past the end of the file; it may be incomplete")
    return replace(info, offset=offset)


def _check_overlap(reader: _Reader, tensors: Iterable[GgufTensor]) -> None:
    for before, after in pairwise(sorted(tensors, key=attrgetter("offset"))):
        if before.offset + before.num_bytes > after.offset:
            reader.fail(f"tensors {before.name!r} and {after.name!r} overlap")
