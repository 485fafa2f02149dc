"""Which sequences run next, and how many tokens of each.

Every running sequence that is being answered gets its one token; the rest of the step is a chunk
of prompts, oldest request first. When blocks run out the youngest sequence gives its blocks back
and waits; the oldest one therefore always gets on, and nothing can wait for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from qcode.engine.scheduling.block_pool import BlockCopy, BlockPool
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.scheduling.state_pool import StateCopy, StatePool

MIN_CHUNK_TOKENS = 32
"""Fewer tokens take little less time: reading the weights is then most of the work."""

MIN_LONE_CHUNK_TOKENS = 128
"""Where only an abort waits for the chunk, smaller ones would cost more speed than they save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """The next `num_tokens` tokens of a sequence run in this step. `is_sampled` says that they
    are its last, so that a new token is chosen."""

    sequence: Sequence
    num_tokens: int
    is_sampled: bool


class ChunkSizer:
    """Prefill chunks that take about `target_s`, from the speed seen so far."""

    def __init__(self, *, max_tokens: int, target_s: float) -> None:
        self._max_tokens = max_tokens
        self._target_s = target_s
        self._tokens_per_s: float | None = None

    def num_tokens(self, *, shared: bool) -> int:
        """A quarter of the time where the chunk delays sequences that are being answered."""
        smallest = MIN_CHUNK_TOKENS if shared else MIN_LONE_CHUNK_TOKENS
        if self._tokens_per_s is None:
            return min(smallest, self._max_tokens)
        wanted = self._tokens_per_s * self._target_s * (0.25 if shared else 1.0)
        rounded = int(wanted) // MIN_CHUNK_TOKENS * MIN_CHUNK_TOKENS
        return min(max(rounded, smallest), self._max_tokens)

    def observe(self, num_tokens: int, seconds: float) -> None:
        # Small batches say little about the speed of large ones.
        if num_tokens < MIN_CHUNK_TOKENS or seconds <= 0:
            return
        speed = num_tokens / seconds
        known = self._tokens_per_s
        self._tokens_per_s = speed if known is None else 0.5 * (known + speed)


class Scheduler:
    """Owns the queues. `copies` and `state_copies` are those to make before the scheduled step."""

    def __init__(
        self,
        pool: BlockPool,
        chunks: ChunkSizer,
        *,
        max_sequences: int,
        states: StatePool | None = None,
    ) -> None:
        """`states` where the model has linear attention."""
        self._pool = pool
        self._states = states
        self._chunks = chunks
        self._max_sequences = max_sequences
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self.copies: list[BlockCopy] = []
        self.state_copies: list[StateCopy] = []

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def remove(self, request_id: RequestId) -> None:
        """Forget a request and free its blocks. Idempotent."""
        for queue in (self._waiting, self._running):
            for sequence in queue:
                if sequence.id == request_id:
                    queue.remove(sequence)
                    self._release(sequence)
                    return

    def commit(self, item: Scheduled) -> None:
        """Note that a scheduled item's tokens have been computed."""
        item.sequence.num_computed_tokens += item.num_tokens
        self._pool.commit(item.sequence)
        if self._states is not None:
            self._states.commit(item.sequence)

    def schedule(self) -> list[Scheduled]:
        """Empty only when there is no work. Blocks for the scheduled tokens are reserved."""
        self.copies.clear()
        scheduled = self._schedule_decodes()
        scheduled += self._schedule_chunk(shared=bool(scheduled))
        if self._states is not None:
            self.state_copies = self._states.take_copies()
        return scheduled

    def _schedule_decodes(self) -> list[Scheduled]:
        scheduled = []
        for sequence in list(self._running):
            # Making room for an older sequence may have taken this one out.
            is_decoding = sequence.num_uncomputed_tokens == 1 and sequence in self._running
            if is_decoding and self._make_room(sequence):
                scheduled.append(self._next_tokens(sequence, 1))
        return scheduled

    def _schedule_chunk(self, *, shared: bool) -> list[Scheduled]:
        """Room for a whole prompt is reserved when it is admitted, so none is made here."""
        budget = self._chunks.num_tokens(shared=shared)
        scheduled = []
        for sequence in self._running:
            if budget and sequence.num_uncomputed_tokens > 1:
                scheduled.append(self._next_tokens(sequence, budget))
                budget -= scheduled[-1].num_tokens
        while budget and self._admit():
            scheduled.append(self._next_tokens(self._running[-1], budget))
            budget -= scheduled[-1].num_tokens
        return scheduled

    def _admit(self) -> bool:
        """Let the oldest waiting sequence run if all of its tokens find room now."""
        if not self._waiting or len(self._running) >= self._max_sequences:
            return False
        sequence = self._waiting[0]
        prefix = self._pool.find_prefix(sequence)
        if self._states is not None:
            if not self._states.num_available:
                return False
            prefix = self._states.usable(prefix, sequence)
        copies = self._pool.admit(sequence, prefix)
        if copies is None:
            return False
        if self._states is not None:
            self._states.admit(sequence)
        self.copies.extend(copies)
        self._running.append(self._waiting.popleft())
        if sequence.num_sampled_tokens == 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Reserve a slot for the newest token, if need be at the cost of the youngest running
        sequence. False when the sequence itself was the youngest."""
        while not self._pool.reserve(sequence, sequence.num_tokens):
            youngest = self._running.pop()
            self._release(youngest)
            self._waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True

    def _release(self, sequence: Sequence) -> None:
        if self._states is not None:
            self._states.release(sequence)
        self._pool.release(sequence)

    def _next_tokens(self, sequence: Sequence, budget: int) -> Scheduled:
        num_tokens = min(budget, sequence.num_uncomputed_tokens)
        if self._states is not None:
            num_tokens = self._states.step_tokens(sequence, num_tokens)
        is_last = num_tokens == sequence.num_uncomputed_tokens
        is_sampled = is_last and not sequence.is_scored
        return Scheduled(sequence=sequence, num_tokens=num_tokens, is_sampled=is_sampled)
