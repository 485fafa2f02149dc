"""The pool against a model of the cache: every slot remembers which prefix was written to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qcode.engine.sampling.sampler import ResolvedSampling
from qcode.engine.scheduling.block_pool import BlockPool, CachedPrefix
from qcode.engine.scheduling.prefix_digest import ROOT, digest_of
from qcode.engine.scheduling.sequence import RequestId, Sequence

GREEDY = ResolvedSampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
BLOCK_SIZE = 4


def sequence_of(tokens: list[int]) -> Sequence:
    return Sequence(
        id=RequestId(0),
        tokens=list(tokens),
        num_prompt_tokens=len(tokens),
        num_answer_tokens=0,
        max_tokens=100,
        sampling=GREEDY,
    )


def compute_all(pool: BlockPool, sequence: Sequence) -> None:
    assert pool.reserve(sequence, sequence.num_tokens)
    sequence.num_computed_tokens = sequence.num_tokens
    pool.commit(sequence)


def test_a_released_prefix_is_reused_up_to_the_last_token() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    first = sequence_of([1, 2, 3, 4, 5, 6])
    assert pool.admit(first) == []
    compute_all(pool, first)
    first_blocks = list(first.blocks)
    pool.release(first)

    second = sequence_of([1, 2, 3, 4, 5, 6])
    copies = pool.admit(second)

    assert copies is not None
    assert [copy.num_slots for copy in copies] == [1]
    assert second.blocks[0] == first_blocks[0]
    assert second.num_computed_tokens == 5


def test_a_branch_copies_the_part_of_a_block_it_shares() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    first = sequence_of([1, 2, 3, 4, 5, 6, 7, 8, 9])
    pool.admit(first)
    compute_all(pool, first)

    branch = sequence_of([1, 2, 3, 4, 5, 6, 70, 80])
    copies = pool.admit(branch)

    assert copies is not None
    assert (copies[0].source, copies[0].num_slots) == (first.blocks[1], 2)
    assert branch.blocks[0] == first.blocks[0]
    assert branch.blocks[1] != first.blocks[1]
    assert branch.num_computed_tokens == 6


def test_a_prefix_may_be_cut_back_to_any_of_its_tokens() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    first = sequence_of([1, 2, 3, 4, 5, 6, 7, 8, 9])
    pool.admit(first)
    compute_all(pool, first)
    second = sequence_of([1, 2, 3, 4, 5, 6, 7, 8, 9])
    found = pool.find_prefix(second)
    assert found.num_tokens == 8

    copies = pool.admit(second, replace(found, num_tokens=7))

    assert copies is not None
    assert (copies[0].source, copies[0].num_slots) == (first.blocks[1], 3)
    assert second.num_computed_tokens == 7
    assert len(second.digests) == 1


def test_what_is_computed_again_replaces_what_nobody_holds() -> None:
    pool = BlockPool(6, BLOCK_SIZE)
    tokens = list(range(12))
    first = sequence_of(tokens)
    pool.admit(first)
    compute_all(pool, first)
    pool.release(first)
    again = sequence_of(tokens)
    pool.admit(again, CachedPrefix(num_tokens=0, digests=()))
    compute_all(pool, again)

    other = sequence_of(list(range(100, 112)))
    pool.admit(other)
    compute_all(pool, other)
    pool.release(again)

    assert pool.find_prefix(sequence_of(tokens)).num_tokens == 11


def test_a_request_without_room_changes_nothing() -> None:
    pool = BlockPool(3, BLOCK_SIZE)
    holder = sequence_of([1, 2, 3, 4, 5])
    pool.admit(holder)
    compute_all(pool, holder)

    late = sequence_of([1, 2, 3, 4, 6, 7, 8, 9, 10])

    assert pool.admit(late) is None
    assert late.blocks == []
    assert late.num_computed_tokens == 0
    assert pool.num_available == 1
    assert [pool.reference_count(block) for block in holder.blocks] == [1, 1]


def test_without_prefix_reuse_nothing_is_shared() -> None:
    pool = BlockPool(8, BLOCK_SIZE, prefix_reuse=False)
    first = sequence_of(list(range(8)))
    pool.admit(first)
    compute_all(pool, first)
    pool.release(first)
    second = sequence_of(list(range(8)))

    assert pool.admit(second) == []
    assert second.num_computed_tokens == 0


class PoolMachine(RuleBasedStateMachine):
    """Sequences over a tiny alphabet come, grow and go in a pool that is always too small."""

    NUM_BLOCKS = 12

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(self.NUM_BLOCKS, BLOCK_SIZE)
        self.live: list[Sequence] = []
        self.held: list[int] = []
        """Blocks whose content is read or written beside the sequences."""
        self.written: dict[tuple[int, int], tuple[int, ...]] = {}

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        share=st.sampled_from([1.0, 1.0, 0.7, 0.3]),
    )
    def admit(self, tokens: list[int], share: float = 1.0) -> None:
        """A share of what is cached is reused, as where there is a snapshot only there."""
        sequence = sequence_of(tokens)
        found = self.pool.find_prefix(sequence)
        prefix = replace(found, num_tokens=int(found.num_tokens * share))
        copies = self.pool.admit(sequence, prefix)
        if copies is None:
            assert sequence.blocks == []
            return
        for copy in copies:
            for offset in range(copy.num_slots):
                self.written[copy.target, offset] = self.written[copy.source, offset]
        assert sequence.num_computed_tokens == prefix.num_tokens < sequence.num_tokens
        self.live.append(sequence)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def admit_compute_and_release(self, tokens: list[int]) -> None:
        """What fills the cache, so that blocks are taken from one another."""
        num_live = len(self.live)
        self.admit(tokens)
        if len(self.live) > num_live:
            sequence = self.live.pop()
            self.compute(sequence, sequence.num_uncomputed_tokens)
            self.pool.release(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def compute_some(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.compute(sequence, data.draw(st.integers(0, sequence.num_uncomputed_tokens)))

    def compute(self, sequence: Sequence, count: int) -> None:
        start = sequence.num_computed_tokens
        for position in range(start, start + count):
            slot = sequence.blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
            self.written[slot] = tuple(sequence.tokens[: position + 1])
        sequence.num_computed_tokens += count
        self.pool.commit(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def append(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        if self.pool.reserve(sequence, sequence.num_tokens + 1):
            sequence.tokens.append(token)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.live.remove(sequence)
        self.pool.release(sequence)
        self.pool.release(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """As for writing to disk: full blocks of a sequence, which may be released meanwhile."""
        sequence = data.draw(st.sampled_from(self.live))
        blocks = sequence.blocks[: len(sequence.digests)]
        self.pool.hold(blocks)
        self.held += blocks

    @rule(tokens=st.lists(st.integers(0, 1), min_size=BLOCK_SIZE, max_size=20))
    def add(self, tokens: list[int]) -> None:
        """As from disk: the blocks of a prefix that are not there, as far as there is room."""
        parent = ROOT
        for end in range(BLOCK_SIZE, len(tokens) + 1, BLOCK_SIZE):
            content = tokens[end - BLOCK_SIZE : end]
            digest = digest_of(parent, content)
            block = self.pool.block_of(digest)
            if block is not None:
                self.pool.hold([block])
            else:
                block = self.pool.add(parent, content, digest)
                if block is None:
                    return
                for offset in range(BLOCK_SIZE):
                    prefix = tuple(tokens[: end - BLOCK_SIZE + offset + 1])
                    self.written[block, offset] = prefix
            self.held.append(block)
            parent = digest

    @precondition(lambda self: self.held)
    @rule()
    def drop(self) -> None:
        self.pool.drop(reversed(self.held))
        self.held.clear()

    @invariant()
    def computed_tokens_are_in_the_cache(self) -> None:
        for sequence in self.live:
            for position in range(sequence.num_computed_tokens):
                slot = sequence.blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
                assert self.written[slot] == tuple(sequence.tokens[: position + 1])

    @invariant()
    def counts_balance(self) -> None:
        held = Counter(block for sequence in self.live for block in sequence.blocks)
        held.update(self.held)
        for block in range(self.NUM_BLOCKS):
            assert self.pool.reference_count(block) == held[block]
        assert self.pool.num_available == self.NUM_BLOCKS - len(held)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase
