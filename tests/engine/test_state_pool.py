"""The pool of states under a scheduler, against a model of the memory: every slot remembers which
tokens its state has seen, every place of a block which prefix was written to it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qcode.engine.sampling.sampler import ResolvedSampling
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.scheduler import ChunkSizer, Scheduler
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.scheduling.state_pool import StatePool

GREEDY = ResolvedSampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
BLOCK_SIZE = 4


def sequence_of(tokens: list[int], number: int = 0, *, is_scored: bool = False) -> Sequence:
    return Sequence(
        id=RequestId(number),
        tokens=list(tokens),
        num_prompt_tokens=len(tokens),
        num_answer_tokens=0,
        max_tokens=100,
        sampling=GREEDY,
        is_scored=is_scored,
    )


class Memory:
    """A scheduler, and what the device would hold if it did what it is told."""

    def __init__(
        self,
        *,
        num_slots: int,
        num_blocks: int = 1000,
        chunk: int = 512,
        spacing: int = 8,
        max_sequences: int = 8,
        prefix_reuse: bool = True,
    ) -> None:
        self.blocks = BlockPool(num_blocks, BLOCK_SIZE, prefix_reuse=prefix_reuse)
        self.pool = StatePool(
            num_slots, BLOCK_SIZE, prefix_reuse=prefix_reuse, snapshot_spacing=spacing
        )
        self.scheduler = Scheduler(
            self.blocks,
            ChunkSizer(max_tokens=chunk, target_s=1),
            max_sequences=max_sequences,
            context_window=100_000,
            prefix_reuse=prefix_reuse,
            states=self.pool,
        )
        self.states: dict[int, tuple[int, ...]] = {}
        self.written: dict[tuple[int, int], tuple[int, ...]] = {}

    def step(self, next_token: int = 0) -> list[tuple[int, int]]:
        """Run what is scheduled, append a token where one is due: (request, tokens) of each."""
        scheduled = self.scheduler.schedule()
        for block_copy in self.scheduler.copies:
            for offset in range(block_copy.num_slots):
                source = self.written[block_copy.source, offset]
                self.written[block_copy.target, offset] = source
        for copy in self.scheduler.state_copies:
            self.states[copy.target] = () if copy.source is None else self.states[copy.source]
        slots = [item.sequence.state_slot for item in scheduled]
        assert len(set(slots)) == len(slots)
        for item in scheduled:
            self._compute(item.sequence, item.num_tokens)
        for item in scheduled:
            self.scheduler.commit(item, item.num_tokens)
            if item.is_sampled:
                item.sequence.tokens.append(next_token)
        return [(item.sequence.id, item.num_tokens) for item in scheduled]

    def _compute(self, sequence: Sequence, num_tokens: int) -> None:
        start = sequence.num_computed_tokens
        for position in range(start + num_tokens):
            place = sequence.blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
            if position >= start:
                self.written[place] = tuple(sequence.tokens[: position + 1])
            assert self.written[place] == tuple(sequence.tokens[: position + 1])
        slot = sequence.state_slot
        assert slot is not None
        assert self.states[slot] == tuple(sequence.tokens[:start])
        self.states[slot] = tuple(sequence.tokens[: start + num_tokens])

    def read(self, tokens: list[int], *, answer: int = 1, number: int = 0) -> int:
        """Run a sequence alone, until its answer has that many tokens: how much was reused."""
        sequence = sequence_of(tokens, number)
        self.scheduler.add(sequence)
        while sequence.num_sampled_tokens < answer:
            assert self.step()
        self.scheduler.remove(sequence.id)
        return sequence.num_cached_tokens


def test_the_same_prompt_again_takes_one_token() -> None:
    memory = Memory(num_slots=4)
    prompt = list(range(11))
    assert memory.read(prompt) == 0

    assert memory.read(prompt) == 10
    assert memory.read([*prompt, 11]) == 11


def test_the_next_turn_goes_on_from_where_the_answer_ended() -> None:
    memory = Memory(num_slots=4)
    memory.read(list(range(10)), answer=4)

    # The last sampled token was never computed.
    assert memory.read([*range(10), 0, 0, 0, 0, 77, 78]) == 13


def test_a_prompt_that_differs_goes_on_from_the_snapshot_before() -> None:
    memory = Memory(num_slots=20, chunk=8, spacing=8)
    memory.read(list(range(40)))

    assert memory.read([*range(30), 99, 98]) == 24
    assert memory.read([*range(39), 99]) == 39
    assert memory.read([99, *range(1, 40)]) == 0


def test_nothing_is_reused_whose_keys_and_values_are_gone() -> None:
    memory = Memory(num_slots=20, num_blocks=10, chunk=8, spacing=8)
    memory.read(list(range(30)))
    memory.read(list(range(100, 138)))

    assert memory.read(list(range(30))) == 0


def test_a_scored_text_leaves_no_snapshot() -> None:
    memory = Memory(num_slots=4)
    scored = sequence_of(list(range(20)), is_scored=True)
    memory.scheduler.add(scored)
    memory.step()
    memory.scheduler.remove(scored.id)

    assert memory.pool.num_snapshots == 0
    assert memory.pool.num_available == 4


def test_without_prefix_reuse_there_are_no_snapshots() -> None:
    memory = Memory(num_slots=4, prefix_reuse=False)
    prompt = list(range(40))

    assert memory.read(prompt) == 0
    assert memory.read(prompt) == 0
    assert memory.pool.num_snapshots == 0


def test_one_slot_serves_one_sequence_after_another() -> None:
    memory = Memory(num_slots=1)
    for number in (1, 2):
        memory.scheduler.add(sequence_of([number] * 9, number))
    assert memory.step() == [(1, 8)]
    assert memory.step() == [(1, 1)]
    memory.scheduler.remove(RequestId(1))

    assert memory.step() == [(2, 8)]
    memory.scheduler.remove(RequestId(2))
    # Its own end is all that there is room for, and it is taken over without a copy.
    assert memory.read([2] * 9, number=3) == 8


def test_a_preempted_sequence_goes_on_where_it_was() -> None:
    memory = Memory(num_slots=4, num_blocks=6)
    old, young = sequence_of([1] * 9, 1), sequence_of([2] * 9, 2)
    memory.scheduler.add(old)
    memory.scheduler.add(young)
    while young.blocks or not young.num_sampled_tokens:
        memory.step(next_token=3)
    tokens = list(young.tokens)
    memory.scheduler.remove(old.id)

    # The other took the block at its end: it goes on from the end of its prompt.
    assert memory.step(next_token=3) == [(2, len(tokens) - 8)]
    assert young.tokens == [*tokens, 3]
    assert young.num_cached_tokens == 0


@pytest.mark.parametrize(("num_slots", "multiple"), [(6, 4), (12, 2)])
def test_snapshots_thin_out_with_the_distance_from_the_end(num_slots: int, multiple: int) -> None:
    """What a change costs is bounded by a multiple of its distance from the end."""
    memory = Memory(num_slots=num_slots, chunk=8, spacing=8)
    prompt = list(range(1000))
    memory.read(prompt)

    for distance in range(1, len(prompt)):
        changed = sequence_of([*prompt[:-distance], -1])
        usable = memory.pool.usable(memory.blocks.find_prefix(changed), changed)
        recomputed = len(prompt) - distance - usable.num_tokens
        assert recomputed <= multiple * distance + 8


def test_a_shared_beginning_outlives_many_short_conversations() -> None:
    memory = Memory(num_slots=8, spacing=50)
    system = list(range(1000, 1200))
    memory.read(system)

    for number in range(20):
        assert memory.read([*system, number, number, number], answer=5) >= 199


class StateMachine(RuleBasedStateMachine):
    """Prompts over a tiny alphabet, many of them parts of earlier ones, with room for few."""

    NUM_SLOTS = 5
    NUM_BLOCKS = 14

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.new_memory()
        self.live: list[Sequence] = []
        self.texts: list[list[int]] = [[0]]
        self.count = 0

    def new_memory(self) -> Memory:
        return Memory(
            num_slots=self.NUM_SLOTS,
            num_blocks=self.NUM_BLOCKS,
            chunk=7,
            spacing=6,
            max_sequences=3,
        )

    @rule(
        data=st.data(),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        is_scored=st.sampled_from([False, False, False, True]),
    )
    def submit(self, data: st.DataObject, tokens: list[int], is_scored: bool) -> None:
        text = data.draw(st.sampled_from(self.texts))
        prompt = [*text[: data.draw(st.integers(0, len(text)))], *tokens][:40]
        self.count += 1
        sequence = sequence_of(prompt, self.count, is_scored=is_scored)
        self.live.append(sequence)
        self.memory.scheduler.add(sequence)

    @rule(token=st.integers(0, 1))
    def step(self, token: int) -> None:
        self.memory.step(token)
        for sequence in list(self.live):
            is_read = sequence.is_scored and not sequence.num_uncomputed_tokens
            if is_read or sequence.num_tokens >= 50 or sequence.num_sampled_tokens >= 8:
                self.remove(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.remove(data.draw(st.sampled_from(self.live)))

    def remove(self, sequence: Sequence) -> None:
        self.live.remove(sequence)
        self.texts.append(list(sequence.tokens))
        for _ in range(2):
            self.memory.scheduler.remove(sequence.id)
        assert sequence.state_slot is None
        assert sequence.blocks == []

    @rule()
    def reset(self) -> None:
        """As after a step that failed: what the scheduler knew is forgotten, memory is not."""
        states, written = self.memory.states, self.memory.written
        self.memory = self.new_memory()
        self.memory.states, self.memory.written = states, written
        self.live.clear()

    @invariant()
    def counts_balance(self) -> None:
        held = [s.state_slot for s in self.live if s.state_slot is not None]
        assert len(set(held)) == len(held)
        assert self.memory.pool.num_available == self.NUM_SLOTS - len(held)
        assert self.memory.pool.num_snapshots <= self.memory.pool.num_available
        assert [bool(s.blocks) for s in self.live] == [s.state_slot is not None for s in self.live]

    def teardown(self) -> None:
        for _ in range(400):
            if not self.live:
                break
            self.step(0)
        assert not self.live
        assert self.memory.blocks.num_available == self.NUM_BLOCKS


StateMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStateMachine = StateMachine.TestCase
