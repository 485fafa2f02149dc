"""A file of known size that is written at given places, by several threads at once."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor


class PositionedFile:
    """Creates the file; leaving the context closes it, and flushes it to the disk on success."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        """Raises OSError: the file exists, the folder cannot be written to, no space."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.truncate(self._descriptor, num_bytes)
        except OSError:
            os.close(self._descriptor)
            raise

    def write(self, offset: int, content: bytes | Tensor) -> None:
        """`content` is bytes, or a contiguous tensor on the CPU whose memory is written."""
        if isinstance(content, Tensor):
            rest: memoryview = content.reshape(-1).view(torch.uint8).numpy().data
        else:
            rest = memoryview(content)
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def __enter__(self) -> PositionedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
