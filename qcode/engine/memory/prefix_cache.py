"""Prefixes on disk, as the engine uses them: what a request begins with is read into blocks before
it is scheduled, and what it computed is written in the background.

In the scheduler's eyes a restored prefix is one that another request has just computed; it knows
nothing of disks. Everything here runs on the engine's thread; the writer's thread reads blocks
that are held for it.
"""

from __future__ import annotations

import zlib
from collections import abc
from pathlib import Path

import numpy as np

from qcode.engine.memory.cache_bytes import RowBytes, block_bytes, state_bytes
from qcode.engine.memory.kv_cache import KVCache
from qcode.engine.memory.prefix_fingerprint import fingerprint, weights_digest
from qcode.engine.memory.prefix_segment import DamagedSegment, SegmentFile, chain_digests
from qcode.engine.memory.prefix_store import Match, PrefixStore
from qcode.engine.memory.prefix_writer import Piece, PrefixWriter, WriteJob
from qcode.engine.memory.recurrent_state import RecurrentStates
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions, KVDtype
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.prefix_digest import ROOT
from qcode.engine.scheduling.sequence import Sequence
from qcode.engine.scheduling.state_pool import StatePool

MIN_TOKENS = 256
"""Fewer are computed about as fast as a file is handled, and there would be many files."""
MIN_PARTIAL_TOKENS = 2048
"""Of a prompt that is still being read: so much work is not lost when it is interrupted."""
MAX_SEGMENT_BYTES = 64 << 20
"""So that an end in the middle of a long prefix keeps its beginning."""
READ_BYTES = 8 << 20
"""At a time: what is read is checked and copied while it is still in the processor's cache."""
MAX_HELD_SHARE = 0.5
"""Of all blocks, for the writer; requests must find room."""
WRITE_WAIT_S = 0.05
CLOSE_WAIT_S = 2.0


class PrefixCache:
    """`blocks` and `slots` are the bytes of the caches whose rows the pools give away."""

    def __init__(
        self,
        store: PrefixStore,
        writer: PrefixWriter | None,
        *,
        blocks: RowBytes,
        slots: RowBytes,
        states: RecurrentStates,
    ) -> None:
        """`writer` is None where nothing is to be kept."""
        self._store = store
        self._writer = writer
        self._blocks = blocks
        self._slots = slots
        self._states = states
        self._stored: set[bytes] = set()
        """Digests of blocks that are on disk, or will be."""
        self._jobs: list[WriteJob] = []

    def attach(self, blocks: BlockPool, states: StatePool | None) -> None:
        """Work on these pools from now on; `states` where the model has linear attention. What was
        to be written of other ones is given up: their blocks may be written to at any time."""
        for job in self._jobs:
            job.cancelled.set()
        self._jobs.clear()
        self._stored.clear()
        self._pool, self._state_pool = blocks, states

    def restore(self, sequence: Sequence) -> abc.Generator[None]:
        """Bring what is stored of a sequence's tokens into idle blocks, piece by piece: the caller
        may let time pass between two of them. Closing it keeps what has been read."""
        size = self._pool.block_size
        tokens = sequence.tokens[: (sequence.num_tokens - 1) // size * size]
        num_known = self._num_reusable_tokens(sequence)
        if sequence.is_scored or len(tokens) - num_known < MIN_TOKENS:
            return
        with self._store.find(tokens, size) as found:
            matches = self._usable(found)
            num_blocks = sum(match.num_blocks for match in matches)
            digests = chain_digests(tokens, size)[:num_blocks]
            self._stored.update(digests)
            self._store.mark_used([match.segment.path for match in matches])
            if num_blocks * size > num_known:
                yield from self._restore(matches, digests)

    def keep(self, sequence: Sequence, *, least: int = MIN_TOKENS) -> None:
        """Have what a sequence computed written, if `least` tokens of it are not on disk yet."""
        if self._writer is None or sequence.is_scored:
            return
        size = self._pool.block_size
        known = 0
        while known < len(sequence.digests) and sequence.digests[known] in self._stored:
            known += 1
        ends = self._segment_ends(sequence.digests, known)
        if not ends or (ends[-1] - known) * size < least:
            return
        num_held = sum(len(job.blocks) for job in self._jobs) + ends[-1] - known
        if num_held > MAX_HELD_SHARE * self._pool.num_blocks:
            return
        if self._state_pool is not None:
            self._settle_states(self._state_pool)
        job = WriteJob(
            tokens=tuple(sequence.tokens[: ends[-1] * size]),
            pieces=tuple(
                self._piece(sequence, first, end)
                for first, end in zip([known, *ends], ends, strict=False)
            ),
        )
        if self._writer.submit(job):
            self._pool.hold(job.blocks)
            self._jobs.append(job)
            self._stored.update(sequence.digests[: ends[-1]])

    def settle(self, *, wait: bool = False) -> None:
        """Let go of the blocks that have been written since; `wait` a little for one of them."""
        if self._writer is None:
            return
        job = self._writer.written(wait_s=WRITE_WAIT_S if wait and self._jobs else 0)
        while job is not None:
            if job in self._jobs:  # else it was of pools that are no more
                self._jobs.remove(job)
                self._pool.drop(reversed(job.blocks))
                if not job.is_reachable:
                    self._stored.clear()
            job = self._writer.written()

    def close(self) -> None:
        """Wait a moment for what is still to be written."""
        if self._writer is not None:
            self._writer.close(CLOSE_WAIT_S)

    def _num_reusable_tokens(self, sequence: Sequence) -> int:
        """As the scheduler will find it."""
        prefix = self._pool.find_prefix(sequence)
        if self._state_pool is not None:
            prefix = self._state_pool.usable(prefix, sequence)
        return prefix.num_tokens

    def _usable(self, matches: list[Match]) -> list[Match]:
        """Those up to the last recurrent state, where there must be one."""
        if self._state_pool is None:
            return matches
        ends = [index + 1 for index, match in enumerate(matches) if _has_state(match)]
        return matches[: ends[-1]] if ends else []

    def _restore(
        self, matches: abc.Sequence[Match], digests: abc.Sequence[bytes]
    ) -> abc.Generator[None]:
        pool, states = self._pool, self._state_pool
        held = [block for digest in digests if (block := pool.block_of(digest)) is not None]
        pool.hold(held)
        whole: list[Match] = []
        num_read = 0
        at_once = max(1, READ_BYTES // max(1, self._blocks.row_bytes))
        try:
            for match in matches:
                for first in range(0, match.num_blocks, at_once):
                    num_blocks = min(at_once, match.num_blocks - first)
                    if not self._restore_blocks(match.segment, first, num_blocks, held):
                        return
                    yield
                num_read += match.num_blocks
                whole.append(match)
        except DamagedSegment as damage:
            self._stored.difference_update(digests[num_read:])
            self._store.discard(match.segment, damage)
        finally:
            if states is not None:
                self._restore_state(whole, states)
            # The end goes first: a prefix must outlive what follows it.
            pool.drop(reversed(held))

    def _restore_blocks(
        self, segment: SegmentFile, first: int, num_blocks: int, held: list[int]
    ) -> bool:
        """Those that are not in memory, into blocks that are then `held`. False when there is no
        room. Raises `DamagedSegment`."""
        pool, header = self._pool, segment.header
        size, row_bytes = pool.block_size, self._blocks.row_bytes
        wanted = range(first, first + num_blocks)
        missing = [index for index in wanted if pool.block_of(header.digests[index]) is None]
        if not missing:
            return True
        data = np.empty(num_blocks * row_bytes, np.uint8)
        segment.read_blocks(first, num_blocks, data.data)
        blocks = []
        for index in missing:
            parent = header.digests[index - 1] if index else header.parent
            tokens = header.tokens[index * size : (index + 1) * size]
            block = pool.add(parent, tokens, header.digests[index])
            if block is None:
                break
            blocks.append(block)
        rows = data.reshape(num_blocks, row_bytes)
        if len(blocks) < num_blocks:
            rows = rows[[index - first for index in missing[: len(blocks)]]]
        if blocks:
            self._blocks.write(blocks, rows)
        held += blocks
        return len(blocks) == len(missing)

    def _restore_state(self, matches: abc.Sequence[Match], states: StatePool) -> None:
        """The last recurrent state at the end of one of these, which were read to their end."""
        num_blocks = sum(match.num_blocks for match in matches)
        for match in reversed(matches):
            if _has_state(match) and self._restore_state_of(match.segment, num_blocks, states):
                return
            num_blocks -= match.num_blocks

    def _restore_state_of(self, segment: SegmentFile, num_blocks: int, states: StatePool) -> bool:
        digest = segment.header.digests[-1]
        if states.snapshot_of(digest) is not None:
            return True
        try:
            state = segment.read_state()
        except DamagedSegment as damage:
            self._stored.difference_update(segment.header.digests)
            self._store.discard(segment, damage)
            return False
        self._settle_states(states)
        slot = states.add(digest, num_blocks * self._pool.block_size)
        if slot is not None:
            self._slots.write([slot], np.frombuffer(state, np.uint8)[None])
        return True

    def _settle_states(self, states: StatePool) -> None:
        """Make the copies that are due, so that every slot has the state it is said to have."""
        self._states.copy(states.take_copies())

    def _segment_ends(self, digests: abc.Sequence[bytes], known: int) -> list[int]:
        """Where the segments end, in blocks, that blocks from `known` on are written as."""
        most_bytes = min(MAX_SEGMENT_BYTES, self._store.max_bytes // 4)
        most = max(1, most_bytes // max(1, self._blocks.row_bytes))
        ends: list[int] = []
        for mark in self._marks(digests, known):
            ends += range((ends[-1] if ends else known) + most, mark, most)
            ends.append(mark)
        return ends

    def _marks(self, digests: abc.Sequence[bytes], known: int) -> list[int]:
        """Where a segment must end: with all of the blocks or, where states are needed, at
        snapshots, the last one and earlier ones so far apart that states take no more of the disk
        than keys and values."""
        states = self._state_pool
        if states is None:
            return [len(digests)]
        spacing = self._slots.row_bytes // max(1, self._blocks.row_bytes)
        marks: list[int] = []
        for end in range(len(digests), known, -1):
            is_far = not marks or marks[-1] - end >= spacing
            if is_far and states.snapshot_of(digests[end - 1]) is not None:
                marks.append(end)
        return marks[::-1]

    def _piece(self, sequence: Sequence, first: int, end: int) -> Piece:
        size, states = self._pool.block_size, self._state_pool
        slot = None if states is None else states.snapshot_of(sequence.digests[end - 1])
        return Piece(
            parent=sequence.digests[first - 1] if first else ROOT,
            tokens=tuple(sequence.tokens[first * size : end * size]),
            blocks=tuple(sequence.blocks[first:end]),
            state=None if slot is None else self._slots.read([slot])[0],
        )


def _has_state(match: Match) -> bool:
    return match.is_whole and match.segment.header.state_bytes > 0


def open_prefix_cache(
    path: Path | None,
    config: ModelConfig,
    options: EngineOptions,
    *,
    cache: KVCache,
    kv_dtype: KVDtype,
    states: RecurrentStates,
    tell: abc.Callable[[str], None],
) -> PrefixCache | None:
    """None where prefixes are not to be kept on disk, or the model's files cannot be told."""
    wanted = options.prefix_cache
    if path is None or wanted is None or not options.prefix_reuse:
        return None
    blocks, slots = block_bytes(cache), state_bytes(states)
    device = cache.layers[0].keys.device if cache.layers else "cpu"
    try:
        key = fingerprint(
            weights=weights_digest(path),
            config=config,
            layouts=[options.block_size, blocks.layout, slots.layout, _key_channels(cache)],
            numerics=[options.dtype, str(device)],
        )
    except OSError as error:
        tell(f"The prefix cache is off: {error}.")
        return None
    store = PrefixStore(
        wanted.directory,
        key,
        max_bytes=wanted.max_bytes,
        read_only=wanted.read_only,
        about={"model": str(path.resolve()), "kv_dtype": kv_dtype},
        tell=tell,
    )
    writer = None
    if not wanted.read_only:
        writer = PrefixWriter(
            store, blocks, fingerprint=key, block_size=options.block_size, tell=tell
        )
    return PrefixCache(store, writer, blocks=blocks, slots=slots, states=states)


def _key_channels(cache: KVCache) -> list[int]:
    """What stored keys are divided by, as checksums: blocks do not say it themselves."""
    return [
        zlib.crc32(layer.key_channels.cpu().numpy().tobytes())
        for layer in cache.layers
        if layer.key_channels is not None
    ]
