"""A file mapped read-only into memory, as bytes to parse and as tensors that view it."""

from __future__ import annotations

import mmap
import os
import stat
import warnings
from pathlib import Path

import torch
from torch import Tensor

from qcode.protocol.errors import CheckpointError


class MappedFile:
    """The mapping lives as long as this object or any tensor made from it."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when `path` is not a readable, non-empty, ordinary file."""
        self.path = path
        try:
            # O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: not an ordinary file")
            if status.st_size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            self.size = status.st_size
            self.buffer = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error.strerror}") from error
        finally:
            os.close(descriptor)
        with warnings.catch_warnings():
            # torch warns that the memory is not writable; weights are never written.
            warnings.simplefilter("ignore", UserWarning)
            self._bytes = torch.frombuffer(self.buffer, dtype=torch.uint8)

    def check(self) -> None:
        """Raises CheckpointError when the file has been cut since it was opened.

        Reading past its end would kill the process. The check takes a microsecond; a file that is
        cut between it and the reading is not noticed.
        """
        if self.buffer.size() < self.size:
            raise CheckpointError(f"{self.path}: the file was cut short while in use")

    def view(self, offset: int, num_bytes: int) -> Tensor:
        """[num_bytes] uint8, a view of the file. Raises CheckpointError as `check`."""
        self.check()
        return self._bytes[offset : offset + num_bytes]

    def expect_scattered_reads(self, is_scattered: bool) -> None:
        """Whether small pieces will be read here and there: then nothing is read ahead, which on
        a cold disk takes fifty times as long as the pieces alone."""
        if hasattr(mmap, "MADV_RANDOM"):
            self.buffer.madvise(mmap.MADV_RANDOM if is_scattered else mmap.MADV_NORMAL)

    def release(self, offset: int, num_bytes: int) -> None:
        """Give back the memory of bytes that are not needed soon; reading them again is slower.

        Only whole pages inside the range go, so that neighbours keep theirs.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self.buffer.madvise(mmap.MADV_DONTNEED, start, end - start)
