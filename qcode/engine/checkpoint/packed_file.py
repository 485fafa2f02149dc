"""A model's quantised weights in the form the compiled kernels multiply, in one file to be mapped.

The file stands beside a GGUF file, which keeps everything else: metadata, vocabulary, norms. Magic,
version and the length of the header as 32-bit integers (little-endian), a BLAKE2b digest of the
header, the header as JSON, and then, each from a whole page on, the packed bytes.

Nothing in it is trusted: the header must have its digest, be made from the very GGUF file at hand
for the very layout of this machine's kernels, and every matrix lies inside the file and has the
size that the kernels compute. The packed bytes themselves are not read when the file is opened,
only by `verify`: reading them all is what the file saves.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.mapped_file import MappedFile
from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.quantization.block_layouts import GgmlType
from qcode.engine.quantization.ggml import tensor_bytes
from qcode.protocol.errors import CheckpointError

MAGIC = b"QCPACKED"
VERSION = 1
PAGE_BYTES = 4096
"""Matrices begin at a page, and those of one expert tensor at a cache line."""
LINE_BYTES = 64
MAX_HEADER_BYTES = 64 << 20
DIGEST_BYTES = 16
PREAMBLE = struct.Struct(f"<{len(MAGIC)}sII{DIGEST_BYTES}s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """Where `count` matrices `shape` [out, in] of one name lie, `stride` bytes apart."""

    name: str
    """As the network calls it."""
    ggml_type: int
    count: int
    shape: tuple[int, int]
    offset: int
    stride: int
    checksum: str
    """BLAKE2b of the bytes of all matrices, hexadecimal."""

    @property
    def num_bytes(self) -> int:
        return self.count * self.stride


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def layout_of(library: KernelLibrary) -> str:
    """Tells layouts of packed bytes apart: a digest of what the kernels make of a small matrix of
    every type. Variants that pack alike share files."""
    hashed = hashlib.blake2b(digest_size=8)
    for kind in GgmlType:
        shape = (17, 512)
        if not library.packed_bytes(kind, shape):
            continue
        # Small bytes are positive, ordinary numbers wherever a format has a float16.
        raw = (torch.arange(tensor_bytes(kind, shape)) * 37 % 59).to(torch.uint8)
        hashed.update(f"{kind} ".encode())
        hashed.update(library.pack(raw, kind, shape).numpy().tobytes())
    return hashed.hexdigest()


def header_bytes(tensors: Sequence[PackedTensor], *, layout: str, source: bytes) -> bytes:
    """Everything before the first matrix, its padding left out."""
    stated = {
        "layout": layout,
        "source": source.hex(),
        "tensors": [asdict(tensor) for tensor in tensors],
    }
    content = json.dumps(stated).encode()
    return PREAMBLE.pack(MAGIC, VERSION, len(content), digest(content)) + content


class PackedFile:
    """The file, mapped. It may be replaced or deleted meanwhile: this mapping stays."""

    def __init__(self, path: Path, *, layout: str, source: bytes) -> None:
        """Raises CheckpointError saying why the file cannot be used."""
        self.path = path
        self._file = MappedFile(path)
        header = _read_header(self._file)
        if header.get("layout") != layout:
            raise CheckpointError(f"{path}: made for other kernels than this machine uses")
        if header.get("source") != source.hex():
            raise CheckpointError(f"{path}: made from another version of the model")
        self.tensors = _tensors(header, self._file)

    @property
    def num_bytes(self) -> int:
        return self._file.size

    def check(self) -> None:
        """Raises CheckpointError when the file has been cut since it was opened."""
        self._file.check()

    def matrices(
        self, name: str, ggml_type: int, count: int, shape: tuple[int, int], size: int
    ) -> list[Tensor] | None:
        """Each matrix as [size] uint8, a view of the file; None where the file does not have
        exactly these. `size` is what the kernels need for one."""
        tensor = self.tensors.get(name)
        if tensor is None or (tensor.ggml_type, tensor.count, tensor.shape) != (
            ggml_type,
            count,
            shape,
        ):
            return None
        if tensor.stride != aligned(size, LINE_BYTES):
            return None
        stacked = self._file.view(tensor.offset, tensor.num_bytes).view(count, tensor.stride)
        return [stacked[i, :size] for i in range(count)]

    def verify(self) -> Iterator[int]:
        """Compare all bytes with their checksums: yields the bytes of each tensor that is right.
        Raises CheckpointError for one that is not."""
        for tensor in self.tensors.values():
            self.check()
            end = tensor.offset + tensor.num_bytes
            with memoryview(self._file.buffer)[tensor.offset : end] as content:
                found = hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
            if found != tensor.checksum:
                raise CheckpointError(f"{self.path}: {tensor.name} is damaged")
            yield tensor.num_bytes


def _read_header(file: MappedFile) -> Mapping[str, object]:
    """Raises CheckpointError."""
    damaged = CheckpointError(f"{file.path}: the header is damaged")
    if file.size < PREAMBLE.size:
        raise damaged
    magic, version, length, stated = PREAMBLE.unpack(file.buffer[: PREAMBLE.size])
    if magic != MAGIC or length > min(MAX_HEADER_BYTES, file.size - PREAMBLE.size):
        raise damaged
    if version != VERSION:
        raise CheckpointError(f"{file.path}: of version {version}; this program writes {VERSION}")
    content = file.buffer[PREAMBLE.size : PREAMBLE.size + length]
    if digest(content) != stated:
        raise damaged
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(header, dict):
        raise damaged
    return header


def _tensors(header: Mapping[str, object], file: MappedFile) -> Mapping[str, PackedTensor]:
    """Raises CheckpointError, for a table that is malformed or points outside of the file."""
    stated = header.get("tensors")
    tensors: dict[str, PackedTensor] = {}
    end = 0
    for item in stated if isinstance(stated, list) else ():
        tensor = _tensor(item)
        if tensor is None or tensor.name in tensors or tensor.offset % PAGE_BYTES:
            raise CheckpointError(f"{file.path}: the table of tensors is damaged")
        tensors[tensor.name] = tensor
        end = max(end, tensor.offset + tensor.num_bytes)
    if end != file.size:
        raise CheckpointError(f"{file.path}: {file.size} bytes, but {end} are stated; it was cut")
    return tensors


def _tensor(item: object) -> PackedTensor | None:
    match item:
        case {
            "name": str(name),
            "ggml_type": int(ggml_type),
            "count": int(count),
            "shape": [int(rows), int(columns)],
            "offset": int(offset),
            "stride": int(stride),
            "checksum": str(checksum),
        } if min(count, rows, columns, offset, stride) > 0:
            return PackedTensor(
                name=name,
                ggml_type=ggml_type,
                count=count,
                shape=(rows, columns),
                offset=offset,
                stride=stride,
                checksum=checksum,
            )
    return None
