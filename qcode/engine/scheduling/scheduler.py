"""Which sequences run next, and how many tokens of each.

Every running sequence that is being answered gets its one token, and those whose next tokens can
be guessed a draft that is checked in the same step. The rest of the step is a chunk of prompts: at
least half of it for the oldest request, the other half for those with least left to read, so that
a short prompt does not wait for a long one. When blocks run out the youngest sequence gives its
blocks back and waits; the oldest one therefore always gets on, and nothing can wait for ever.

A request whose prompt begins as one that is being read waits until that part is read, and finds it
in the cache.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from qcode.engine.scheduling.block_pool import BlockCopy, BlockPool
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.scheduling.state_pool import StateCopy, StatePool
from qcode.engine.speculation.drafter import Drafter, StepPlan

MIN_CHUNK_TOKENS = 32
"""Fewer tokens take little less time: reading the weights is then most of the work."""

MIN_LONE_CHUNK_TOKENS = 128
"""Where only an abort waits for the chunk, smaller ones would cost more speed than they save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """The next `num_tokens` tokens of a sequence run in this step. `is_sampled` says that its last
    one is among them, so that a new token is chosen. What follows that one in the step is `draft`:
    a guess at the new tokens."""

    sequence: Sequence
    num_tokens: int
    is_sampled: bool
    draft: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """How many rows of the step's logits are this item's."""
        return 1 + len(self.draft) if self.is_sampled else 0


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
        context_window: int,
        prefix_reuse: bool = True,
        states: StatePool | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """`prefix_reuse` is that of the pool; `states` where the model has linear attention;
        without a `drafter`, every token of an answer takes a step."""
        self._pool = pool
        self._states = states
        self._chunks = chunks
        self._max_sequences = max_sequences
        self._context_window = context_window
        self._prefix_reuse = prefix_reuse
        self._drafter = drafter
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

    def commit(self, item: Scheduled, num_tokens: int) -> None:
        """Note that the first `num_tokens` of a scheduled item's tokens are those of its sequence,
        and computed. What a rejected draft left in the cache is written over."""
        item.sequence.num_computed_tokens += num_tokens
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
            if sequence.is_read and sequence in self._running and self._make_room(sequence):
                scheduled.append(self._next_tokens(sequence, sequence.num_uncomputed_tokens))
        if self._drafter is None or not scheduled:
            return scheduled
        num_tokens = sum(item.num_tokens for item in scheduled)
        plan = StepPlan(num_tokens=num_tokens, num_gained=len(scheduled))
        return [self._with_draft(item, self._drafter, plan) for item in scheduled]

    def _with_draft(self, item: Scheduled, drafter: Drafter, plan: StepPlan) -> Scheduled:
        sequence = item.sequence
        if sequence.copied is None or not item.is_sampled:
            return item
        # One token is chosen after the draft.
        left = min(
            sequence.max_tokens - sequence.answer_position,
            self._context_window - sequence.num_tokens,
        )
        # A guess must not cost another sequence its blocks.
        room = (self._pool.num_available - len(self._running)) * self._pool.block_size
        draft = drafter.draft(sequence.copied, plan, min(left - 1, room))
        if not draft or not self._pool.reserve(sequence, sequence.num_tokens + len(draft)):
            return item
        return replace(item, num_tokens=item.num_tokens + len(draft), draft=tuple(draft))

    def _schedule_chunk(self, *, shared: bool) -> list[Scheduled]:
        """Room for a whole prompt is reserved when it is admitted, so none is made here."""
        self._admit_waiting()
        reading = [sequence for sequence in self._running if not sequence.is_read]
        if not reading:
            return []
        budget = self._chunks.num_tokens(shared=shared)
        oldest, others = reading[0], sorted(reading[1:], key=_num_uncomputed_tokens)
        rest = min(budget // 2, sum(map(_num_uncomputed_tokens, others)))
        rest = max(rest, budget - oldest.num_uncomputed_tokens)
        scheduled = [self._next_tokens(oldest, budget - rest)]
        for sequence in others:
            if rest <= 0:
                break
            scheduled.append(self._next_tokens(sequence, rest))
            rest -= scheduled[-1].num_tokens
        return scheduled

    def _admit_waiting(self) -> None:
        """Let those run whose tokens all find room now, in the order in which they came."""
        for sequence in list(self._waiting):
            if len(self._running) >= self._max_sequences:
                return
            if not self._is_read_for_another(sequence) and not self._admit(sequence):
                return

    def _is_read_for_another(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to compute what this one begins with."""
        size = self._pool.block_size
        if sequence.is_scored or not self._prefix_reuse:
            return False
        for other in self._running:
            if other.is_read or other.is_scored:
                continue
            # The last token of a prompt is always computed; blocks are shared as wholes.
            longest = min(sequence.num_tokens - 1, other.num_admitted_tokens)
            first = (other.num_computed_tokens // size + 1) * size
            if first <= longest and sequence.tokens[:first] == other.tokens[:first]:
                return True
        return False

    def _admit(self, sequence: Sequence) -> bool:
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
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.num_admitted_tokens = sequence.num_tokens
        if sequence.num_sampled_tokens == 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Reserve slots for the newest tokens, if need be at the cost of the youngest running
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


def _num_uncomputed_tokens(sequence: Sequence) -> int:
    return sequence.num_uncomputed_tokens
