"""The file of one segment: consecutive full blocks of one prefix, and perhaps the recurrent state
at its end.

    header    struct, token ids, a checksum of each block; itself checked
    blocks    from the next multiple of 4096 bytes, one after the other
    state     of linear attention layers, after the last block; absent in other models

A segment says which tokens it holds and what its prefix was, so that a hit is told by tokens and
not by a hash alone. Files are read by copying: a mapping would end the process when another one
cuts the file, and the cache's tensors own their memory anyway.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from qcode.engine.scheduling.prefix_digest import ROOT, digest_of

MAGIC = b"QCODEKV1"
SUFFIX = ".kv"
_ALIGNMENT = 4096
_FIELDS = struct.Struct("<8sIIIQQ16s?16s")
_CRC = struct.Struct("<I")


class DamagedSegment(Exception):
    """The file is not what was written; the text says in what."""


@dataclass(frozen=True, kw_only=True)
class SegmentHeader:
    """`tokens` are those of all blocks, `parent` is the digest of the prefix before them. Values
    mean what they say only under the same `fingerprint`."""

    fingerprint: bytes
    parent: bytes
    tokens: tuple[int, ...]
    block_size: int
    block_bytes: int
    block_checksums: tuple[int, ...]
    state_bytes: int = 0
    state_checksum: int = 0

    @property
    def num_blocks(self) -> int:
        return len(self.block_checksums)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Of the prefix up to the end of each block."""
        return chain_digests(self.tokens, self.block_size, self.parent)

    @property
    def data_offset(self) -> int:
        return _data_offset(self.num_blocks, self.block_size)

    def encode(self) -> bytes:
        """The header, up to where the blocks begin."""
        fields = _FIELDS.pack(
            MAGIC,
            self.num_blocks,
            self.block_size,
            self.state_checksum,
            self.block_bytes,
            self.state_bytes,
            self.fingerprint,
            bool(self.parent),
            self.parent,
        )
        body = fields + _uint32(self.tokens) + _uint32(self.block_checksums)
        checked = body + _CRC.pack(zlib.crc32(body))
        return checked.ljust(self.data_offset, b"\0")


class SegmentFile:
    """An open segment. Another process may remove the file meanwhile; it stays readable."""

    def __init__(self, path: Path, fingerprint: bytes) -> None:
        """Raises `DamagedSegment`, and `FileNotFoundError` for a file that has just gone."""
        self.path = path
        self._file = _open(path)
        try:
            self.header = self._read_header(fingerprint)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read_blocks(self, first: int, num_blocks: int, buffer: memoryview) -> None:
        """Into `buffer` of `num_blocks * block_bytes` bytes. Raises `DamagedSegment`; the buffer's
        content means nothing then."""
        header = self.header
        size = header.block_bytes
        self._read_into(buffer, header.data_offset + first * size)
        for index in range(num_blocks):
            checksum = zlib.crc32(buffer[index * size : (index + 1) * size])
            if checksum != header.block_checksums[first + index]:
                raise DamagedSegment(f"block {first + index} is not what was written")

    def read_state(self) -> bytearray:
        """The recurrent state at the end. Raises `DamagedSegment`."""
        header = self.header
        state = bytearray(header.state_bytes)
        offset = header.data_offset + header.num_blocks * header.block_bytes
        self._read_into(memoryview(state), offset)
        if zlib.crc32(state) != header.state_checksum:
            raise DamagedSegment("the recurrent state is not what was written")
        return state

    def _read_header(self, fingerprint: bytes) -> SegmentHeader:
        fields = bytearray(_FIELDS.size)
        self._read_into(memoryview(fields), 0)
        magic, num_blocks, block_size, state_checksum, block_bytes, state_bytes, *rest = (
            _FIELDS.unpack(fields)
        )
        stored_fingerprint, has_parent, parent = rest
        if magic != MAGIC:
            raise DamagedSegment("it does not begin as such a file does")
        # The whole size is told before anything is allocated by these numbers.
        data_offset = _data_offset(num_blocks, block_size)
        stated = data_offset + num_blocks * block_bytes + state_bytes
        actual = os.fstat(self._file.fileno()).st_size
        if stated != actual or not num_blocks or not block_size:
            raise DamagedSegment(f"it has {actual} bytes and says {stated}")
        body = bytearray(_header_bytes(num_blocks, block_size))
        self._read_into(memoryview(body), 0)
        (checksum,) = _CRC.unpack(body[-_CRC.size :])
        if zlib.crc32(memoryview(body)[: -_CRC.size]) != checksum:
            raise DamagedSegment("its header is not what was written")
        if stored_fingerprint != fingerprint:
            raise DamagedSegment("it belongs to another model or engine")
        numbers = array("I")
        numbers.frombytes(memoryview(body)[_FIELDS.size : -_CRC.size])
        return SegmentHeader(
            fingerprint=stored_fingerprint,
            parent=parent if has_parent else ROOT,
            tokens=tuple(numbers[: num_blocks * block_size]),
            block_size=block_size,
            block_bytes=block_bytes,
            block_checksums=tuple(numbers[num_blocks * block_size :]),
            state_bytes=state_bytes,
            state_checksum=state_checksum,
        )

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        try:
            self._file.seek(offset)
            while buffer:
                count = self._file.readinto(buffer)
                if not count:
                    raise DamagedSegment("it is too short")
                buffer = buffer[count:]
        except OSError as error:
            raise DamagedSegment(f"it cannot be read: {error.strerror}") from error


def chain_digests(
    tokens: Sequence[int], block_size: int, parent: bytes = ROOT
) -> tuple[bytes, ...]:
    """Of each full block of `tokens`, which follow the prefix with digest `parent`."""
    digests = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = digest_of(parent, list(tokens[start : start + block_size]))
        digests.append(parent)
    return tuple(digests)


def _open(path: Path) -> io.FileIO:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedSegment(f"it cannot be opened: {error.strerror}") from error


def _header_bytes(num_blocks: int, block_size: int) -> int:
    return _FIELDS.size + 4 * num_blocks * (block_size + 1) + _CRC.size


def _data_offset(num_blocks: int, block_size: int) -> int:
    return -(-_header_bytes(num_blocks, block_size) // _ALIGNMENT) * _ALIGNMENT


def _uint32(numbers: Sequence[int]) -> bytes:
    return array("I", numbers).tobytes()
