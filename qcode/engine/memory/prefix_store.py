"""Prefixes kept on disk across runs: find them by their tokens, add to them, keep them in bounds.

    DIRECTORY/FINGERPRINT/about.json               which model and number format, for people
    DIRECTORY/FINGERPRINT/FIRST-LAST.kv            a segment, named by the digests of its first
                                                   and its last block

A digest is of a whole prefix, so the name alone says where a segment belongs: where a conversation
leaves another's way, the next segment begins. Nothing is ever rewritten; files appear complete by
renaming, so several processes may work on one directory. The least recently used go first, and
a use is dated so that what comes later in a prefix goes before what it depends on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcode.engine.memory.prefix_segment import (
    SUFFIX,
    DamagedSegment,
    SegmentFile,
    SegmentHeader,
    chain_digests,
)

logger = logging.getLogger(__name__)

ABOUT = "about.json"
KEEP_FREE_BYTES = 1 << 30
"""Of the disk, whatever the limit allows."""
_TEMPORARY = ".part"
_ABANDONED_S = 3600.0
"""A temporary file this old belongs to a process that was killed."""
_TICK_NS = 1000
"""Between the times of use of a segment and of the one that follows it."""


class StoreFull(Exception):
    """Nothing more can be written; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The first `num_blocks` blocks of an open segment follow the match before it."""

    segment: SegmentFile
    num_blocks: int

    @property
    def is_whole(self) -> bool:
        return self.num_blocks == self.segment.header.num_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """What is kept for one model in one number format. `last_used` is in seconds since the
    epoch."""

    directory: Path
    model: str
    kv_dtype: str
    num_segments: int
    num_bytes: int
    last_used: float


class PrefixStore:
    """The segments of one fingerprint. Threads and processes may share the directory."""

    def __init__(
        self,
        directory: Path,
        fingerprint: bytes,
        *,
        max_bytes: int,
        read_only: bool = False,
        about: dict[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`tell` gets a line for the person when a damaged file was found, but only once."""
        self.read_only = read_only
        self._root = directory
        self._directory = directory / fingerprint.hex()
        self._fingerprint = fingerprint
        self.max_bytes = max_bytes
        self._about = about or {}
        self._tell = tell
        self._has_told = False

    @contextlib.contextmanager
    def find(self, tokens: Sequence[int], block_size: int) -> Iterator[list[Match]]:
        """The longest way through stored segments along the full blocks of `tokens`, in order.
        Damaged files on it are removed; what they held is missing. Raises nothing."""
        digests = chain_digests(tokens, block_size)
        matches: list[Match] = []
        try:
            names = self._names_by_first()
            done = 0
            while done < len(digests):
                match = self._longest(names.get(digests[done].hex(), ()), digests[done:])
                if match is None:
                    break
                matches.append(match)
                done += match.num_blocks
            yield matches
        finally:
            for match in matches:
                match.segment.close()

    def mark_used(self, segments: Iterable[Path]) -> None:
        """Consecutive segments from the beginning of a prefix."""
        if self.read_only:
            return
        now = time.time_ns()
        for index, path in enumerate(segments):
            used = now - index * _TICK_NS
            with contextlib.suppress(OSError):
                os.utime(path, ns=(used, used))

    def add(self, header: SegmentHeader, data: Iterable[bytes | memoryview]) -> Path:
        """Write a segment; `data` is its blocks and its state. Raises `StoreFull`, `OSError`."""
        num_bytes = header.num_blocks * header.block_bytes + header.state_bytes
        self._check_room(num_bytes)
        self._make_directory()
        first, last = header.digests[0].hex(), header.digests[-1].hex()
        path = self._directory / f"{first}-{last}{SUFFIX}"
        descriptor, name = tempfile.mkstemp(dir=self._directory, suffix=_TEMPORARY)
        temporary = Path(name)
        try:
            try:
                for part in (header.encode(), *data):
                    _write_all(descriptor, memoryview(part))
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return path

    def keep_within_bounds(self) -> None:
        """Remove what was used least recently, of all models, until the rest is small enough."""
        files = sorted(_segment_files(self._root), key=lambda item: item[1].st_mtime_ns)
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= status.st_size
        _remove_abandoned(self._root)

    def discard(self, segment: SegmentFile, reason: DamagedSegment) -> None:
        self._discard(segment.path, reason)

    def _discard(self, path: Path, reason: DamagedSegment) -> None:
        if not self.read_only:
            with contextlib.suppress(OSError):
                path.unlink()
        logger.warning("not used: %s: %s", path, reason)
        if not self._has_told:
            self._has_told = True
            self._tell(f"Part of the prefix cache is damaged and computed again: {reason} ({path})")

    def _names_by_first(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    names.setdefault(entry.name.partition("-")[0], []).append(entry.name)
        return names

    def _longest(self, names: Iterable[str], digests: Sequence[bytes]) -> Match | None:
        """Of the segments of these names, the one that has most of what is wanted next."""
        best: Match | None = None
        for name in names:
            match = self._match(self._directory / name, digests)
            if match is None:
                continue
            if best is None or match.num_blocks > best.num_blocks:
                best, match = match, best
            if match is not None:
                match.segment.close()
        return best

    def _match(self, path: Path, digests: Sequence[bytes]) -> Match | None:
        try:
            segment = SegmentFile(path, self._fingerprint)
        except FileNotFoundError:
            return None
        except DamagedSegment as damage:
            self._discard(path, damage)
            return None
        # Digests are of 128 bits and over the tokens themselves, which the header's checksum
        # guards: they are equal where parent and tokens are.
        num_blocks = 0
        for stored, wanted in zip(segment.header.digests, digests, strict=False):
            if stored != wanted:
                break
            num_blocks += 1
        if num_blocks:
            return Match(segment=segment, num_blocks=num_blocks)
        segment.close()
        return None

    def _check_room(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise StoreFull("a prefix is larger than all that may be kept")
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self._root).free < num_bytes + KEEP_FREE_BYTES:
            raise StoreFull("the disk is nearly full")

    def _make_directory(self) -> None:
        status = self._root.stat()
        if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise StoreFull("others can write to its folder")
        self._directory.mkdir(mode=0o700, exist_ok=True)
        about = self._directory / ABOUT
        if not about.exists():
            about.touch(mode=0o600)
            about.write_text(json.dumps(self._about), "utf-8")


def stored_models(directory: Path) -> list[StoredModel]:
    """What is kept in a prefix cache, the most recently used first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in directory.iterdir():
            files = list(_segment_files_of(folder))
            if not files:
                continue
            about = _read_about(folder / ABOUT)
            found.append(
                StoredModel(
                    directory=folder,
                    model=about.get("model", "unknown"),
                    kv_dtype=about.get("kv_dtype", "unknown"),
                    num_segments=len(files),
                    num_bytes=sum(status.st_size for _, status in files),
                    last_used=max(status.st_mtime for _, status in files),
                )
            )
    return sorted(found, key=lambda model: model.last_used, reverse=True)


def clear(models: Iterable[StoredModel]) -> None:
    """Raises OSError."""
    for model in models:
        shutil.rmtree(model.directory)


def _segment_files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            yield from _segment_files_of(folder)


def _segment_files_of(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat()


def _remove_abandoned(root: Path) -> None:
    oldest = time.time() - _ABANDONED_S
    for path in root.glob(f"*/*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _read_about(file: Path) -> dict[str, str]:
    try:
        about = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(about, dict):
        return {}
    return {key: value for key, value in about.items() if isinstance(value, str)}


def _write_all(descriptor: int, data: memoryview) -> None:
    data = data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]
