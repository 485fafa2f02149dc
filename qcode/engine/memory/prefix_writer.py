"""The thread that writes prefixes to disk, at the lowest priority, while the engine goes on."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qcode.engine.memory.cache_bytes import Bytes, RowBytes
from qcode.engine.memory.prefix_segment import SegmentHeader
from qcode.engine.memory.prefix_store import PrefixStore, StoreFull

logger = logging.getLogger(__name__)

_MAX_WAITING = 64
_NICENESS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A segment to be written: `blocks` of the cache hold `tokens`, and `state` is what linear
    attention layers have at their end."""

    parent: bytes
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    state: Bytes | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class WriteJob:
    """Consecutive pieces of one prefix, the later ones of use only with those before. Blocks stay
    as they are until the job is in `written`, or it is cancelled."""

    tokens: tuple[int, ...]
    """Of the prefix up to the end of the last piece."""
    pieces: tuple[Piece, ...]
    cancelled: threading.Event = field(default_factory=threading.Event)
    is_reachable: bool = True
    """Whether the whole prefix was on disk in the end: another process may remove the beginning."""

    @property
    def blocks(self) -> list[int]:
        return [block for piece in self.pieces for block in piece.blocks]


class PrefixWriter:
    """`submit`, `written` and `close` are for one thread, the engine's."""

    def __init__(
        self,
        store: PrefixStore,
        rows: RowBytes,
        *,
        fingerprint: bytes,
        block_size: int,
        tell: Callable[[str], None],
    ) -> None:
        self._store = store
        self._rows = rows
        self._fingerprint = fingerprint
        self._block_size = block_size
        self._tell = tell
        self._jobs: queue.Queue[WriteJob | None] = queue.Queue()
        self._written: queue.SimpleQueue[WriteJob] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_off = False

    def submit(self, job: WriteJob) -> bool:
        """False where nothing is written any more, or too much is waiting already."""
        if self._is_off or self._jobs.qsize() >= _MAX_WAITING:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prefix-writer", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return True

    def written(self, *, wait_s: float = 0) -> WriteJob | None:
        """A job that needs its blocks no longer, if there is one by then."""
        try:
            return self._written.get(timeout=wait_s) if wait_s else self._written.get_nowait()
        except queue.Empty:
            return None

    def close(self, timeout_s: float) -> None:
        """Wait for what is still to be written, but no longer than that; the rest is given up."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._is_off = True

    def _run(self) -> None:
        if sys.platform == "linux":
            # Linux gives each thread a priority of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (job := self._jobs.get()) is not None:
            try:
                self._write(job)
            except (StoreFull, OSError) as error:
                if not self._is_off:
                    reason = error if isinstance(error, StoreFull) else error.strerror
                    self._tell(f"The prefix cache is not written any more: {reason}.")
                self._is_off = True
            except Exception:
                logger.exception("writing a prefix failed")
                self._is_off = True
            self._written.put(job)

    def _write(self, job: WriteJob) -> None:
        written: list[Path] = []
        for piece in job.pieces:
            if self._is_off or job.cancelled.is_set():
                return
            data = self._rows.read(piece.blocks)
            if job.cancelled.is_set():
                return  # the blocks may have been written to while they were read
            written.append(self._store.add(self._header(piece, data), _parts(piece, data)))
        with self._store.find(job.tokens, self._block_size) as matches:
            self._store.mark_used([match.segment.path for match in matches])
            num_blocks = sum(match.num_blocks for match in matches)
            job.is_reachable = num_blocks * self._block_size == len(job.tokens)
        self._store.keep_within_bounds()

    def _header(self, piece: Piece, data: Bytes) -> SegmentHeader:
        state = piece.state
        return SegmentHeader(
            fingerprint=self._fingerprint,
            parent=piece.parent,
            tokens=piece.tokens,
            block_size=self._block_size,
            block_bytes=self._rows.row_bytes,
            block_checksums=tuple(zlib.crc32(row.data) for row in data),
            state_bytes=0 if state is None else state.nbytes,
            state_checksum=0 if state is None else zlib.crc32(state.data),
        )


def _parts(piece: Piece, data: Bytes) -> Sequence[memoryview]:
    parts = (data,) if piece.state is None else (data, piece.state)
    return [part.data for part in parts if part.nbytes]
