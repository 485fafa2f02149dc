"""Writes the packed weights of a model to a file: whole, or not at all.

The bytes go to a file of another name, which is locked, flushed to the disk and then renamed. Of
two processes that write at once one waits for the other and finds its work done; what a killed one
left behind is written over by the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from qcode.engine.checkpoint.packed_file import (
    DIGEST_BYTES,
    LINE_BYTES,
    PAGE_BYTES,
    PackedTensor,
    aligned,
    header_bytes,
)
from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.quantization.weight_format import Weight
from qcode.protocol.errors import ModelStoreError

SUFFIX = ".writing"
"""Added to the name of a file while it is written."""
MARGIN_BYTES = 512 << 20
"""Left free on the disk."""
CHUNK_BYTES = 64 << 20
_NO_CHECKSUM = "0" * (2 * DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrices:
    """Matrices of one name that the kernels can multiply packed, as the network asked for them."""

    name: str
    ggml_type: int
    shape: tuple[int, int]
    raw: Sequence[Tensor]
    """Their bytes in the GGUF file, views of it."""
    weights: Sequence[Weight]

    def packed(self, library: KernelLibrary) -> Iterator[Tensor]:
        """Each one packed, computed where no weight holds it."""
        for raw, weight in zip(self.raw, self.weights, strict=True):
            if isinstance(weight, PackedWeight):
                yield weight.packed
            else:
                yield library.pack(raw, self.ggml_type, self.shape)


def planned(matrices: Sequence[Matrices], library: KernelLibrary) -> list[PackedTensor]:
    """Where each will lie, without checksums. The header's length does not depend on these."""
    tensors = [
        PackedTensor(
            name=item.name,
            ggml_type=item.ggml_type,
            count=len(item.raw),
            shape=item.shape,
            offset=10**15,  # as long as any to come
            stride=aligned(library.packed_bytes(item.ggml_type, item.shape), LINE_BYTES),
            checksum=_NO_CHECKSUM,
        )
        for item in matrices
    ]
    offset = aligned(len(header_bytes(tensors, layout="0" * 16, source=bytes(64))), PAGE_BYTES)
    placed = []
    for tensor in tensors:
        placed.append(replace(tensor, offset=offset))
        offset = aligned(offset + tensor.num_bytes, PAGE_BYTES)
    return placed


def write_packed(
    path: Path,
    matrices: Sequence[Matrices],
    library: KernelLibrary,
    *,
    layout: str,
    source: bytes,
    is_current: Callable[[], bool],
    progress: Callable[[float], None] = lambda share: None,
) -> bool:
    """Returns whether the file was written: not where `is_current` tells, once nobody else writes,
    that it is there. Holds one matrix at a time in memory.

    Raises ModelStoreError, and OSError for a folder that cannot be written to.
    """
    tensors = planned(matrices, library)
    end = max((tensor.offset + tensor.num_bytes for tensor in tensors), default=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(path.name + SUFFIX)) as (temporary, descriptor):
        if is_current():
            temporary.unlink()
            return False
        os.truncate(descriptor, 0)
        try:
            _check_space(path.parent, end)
            written = []
            for tensor, item in zip(tensors, matrices, strict=True):
                checksum = _write_tensor(descriptor, tensor, item.packed(library))
                written.append(replace(tensor, checksum=checksum))
                progress((tensor.offset + tensor.num_bytes) / end)
            _write(descriptor, 0, memoryview(header_bytes(written, layout=layout, source=source)))
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return True


def _write_tensor(descriptor: int, tensor: PackedTensor, packed: Iterator[Tensor]) -> str:
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for index, matrix in enumerate(packed):
        content: memoryview = matrix.numpy().data
        padding = bytes(tensor.stride - len(content))
        offset = tensor.offset + index * tensor.stride
        _write(descriptor, offset, content)
        _write(descriptor, offset + len(content), memoryview(padding))
        hashed.update(content)
        hashed.update(padding)
    return hashed.hexdigest()


def _write(descriptor: int, offset: int, content: memoryview) -> None:
    while content:
        written = os.pwrite(descriptor, content[:CHUNK_BYTES], offset)
        content, offset = content[written:], offset + written


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes + MARGIN_BYTES:
        raise ModelStoreError(
            f"Not enough disk space in {folder} for packed weights: they take "
            f"{num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free."
        )


@contextmanager
def _locked(temporary: Path) -> Iterator[tuple[Path, int]]:
    """The file of that name, open and locked; waits for whoever holds it. Closing it lets go."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it has renamed or removed it: the lock is then of a file without a name.
            if _is_same(temporary, descriptor):
                yield temporary, descriptor
                return
        finally:
            os.close(descriptor)


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
