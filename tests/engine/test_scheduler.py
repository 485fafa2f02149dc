from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qcode.engine.sampling.sampler import ResolvedSampling
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.scheduler import ChunkSizer, Scheduler
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.scheduling.state_pool import StatePool
from qcode.engine.speculation.drafter import Drafter
from qcode.engine.speculation.step_cost import StepCost

GREEDY = ResolvedSampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)


def sequence_of(number: int, num_tokens: int) -> Sequence:
    # Every sequence has tokens of its own, so that none shares blocks.
    return Sequence(
        id=RequestId(number),
        tokens=[1000 * number + i for i in range(num_tokens)],
        num_prompt_tokens=num_tokens,
        num_answer_tokens=0,
        max_tokens=100,
        sampling=GREEDY,
    )


def scheduler_of(
    num_blocks: int,
    *,
    chunk: int = 8,
    max_sequences: int = 8,
    num_slots: int = 0,
    drafter: Drafter | None = None,
) -> Scheduler:
    """With slots for recurrent states, if that many are given."""
    return Scheduler(
        BlockPool(num_blocks, 4),
        ChunkSizer(max_tokens=chunk, target_s=1),
        max_sequences=max_sequences,
        context_window=1000,
        states=StatePool(num_slots, 4) if num_slots else None,
        drafter=drafter,
    )


def run_step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Compute what is scheduled, append a token where one is due: (request, tokens) of each.
    Drafts turn out wrong."""
    scheduled = scheduler.schedule()
    for item in scheduled:
        scheduler.commit(item, item.num_tokens - len(item.draft))
        if item.is_sampled:
            item.sequence.tokens.append(0)
    return [(item.sequence.id, item.num_tokens) for item in scheduled]


def test_a_long_prompt_is_read_in_chunks_beside_decoding() -> None:
    scheduler = scheduler_of(100)
    scheduler.add(sequence_of(1, 3))
    scheduler.add(sequence_of(2, 12))

    assert run_step(scheduler) == [(1, 3), (2, 5)]
    assert run_step(scheduler) == [(1, 1), (2, 7)]
    assert run_step(scheduler) == [(1, 1), (2, 1)]


def test_with_recurrent_states_prompts_stop_for_a_snapshot_and_slots_limit_how_many_run() -> None:
    scheduler = scheduler_of(100, num_slots=2)
    for number in (1, 2, 3):
        scheduler.add(sequence_of(number, 5))

    assert run_step(scheduler) == [(1, 4), (2, 4)]
    assert run_step(scheduler) == [(1, 1), (2, 1)]
    assert run_step(scheduler) == [(1, 1), (2, 1)]
    scheduler.remove(RequestId(1))
    assert run_step(scheduler) == [(2, 1), (3, 4)]


def test_when_blocks_run_out_the_youngest_waits_and_the_oldest_gets_on() -> None:
    scheduler = scheduler_of(4)
    old, young = sequence_of(1, 7), sequence_of(2, 7)
    scheduler.add(old)
    scheduler.add(young)
    run_step(scheduler)
    run_step(scheduler)
    assert run_step(scheduler)[0] == (1, 1)

    while old.num_tokens < 15:
        assert (1, 1) in run_step(scheduler)

    assert young.blocks == []
    scheduler.remove(old.id)
    while young.num_uncomputed_tokens > 1:
        assert run_step(scheduler)
    assert run_step(scheduler) == [(2, 1)]


def test_removing_is_idempotent_and_frees_everything() -> None:
    pool = BlockPool(10, 4)
    scheduler = Scheduler(
        pool, ChunkSizer(max_tokens=8, target_s=1), max_sequences=1, context_window=1000
    )
    running, waiting = sequence_of(1, 6), sequence_of(2, 6)
    scheduler.add(running)
    scheduler.add(waiting)
    run_step(scheduler)

    for _ in range(2):
        scheduler.remove(running.id)
        scheduler.remove(waiting.id)

    assert not scheduler.has_work
    assert pool.num_available == 10


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 24), min_size=1, max_size=6),
    num_blocks=st.integers(10, 16),
    max_sequences=st.integers(1, 4),
    num_slots=st.integers(0, 3),
)
def test_every_request_gets_done(
    prompts: list[int], num_blocks: int, max_sequences: int, num_slots: int
) -> None:
    scheduler = scheduler_of(num_blocks, max_sequences=max_sequences, num_slots=num_slots)
    unfinished = {i: sequence_of(i, length) for i, length in enumerate(prompts, 1)}
    for sequence in unfinished.values():
        scheduler.add(sequence)

    for _ in range(1000):
        if not scheduler.has_work:
            break
        assert run_step(scheduler)
        for number, sequence in list(unfinished.items()):
            if sequence.num_sampled_tokens >= 12:
                scheduler.remove(RequestId(number))
                del unfinished[number]

    assert not unfinished


def test_chunks_grow_to_what_the_machine_reads_in_time() -> None:
    chunks = ChunkSizer(max_tokens=512, target_s=1)
    assert chunks.num_tokens(shared=False) == 128

    chunks.observe(64, seconds=0.25)

    assert chunks.num_tokens(shared=False) == 256
    assert chunks.num_tokens(shared=True) == 64
    chunks.observe(512, seconds=0.1)
    assert chunks.num_tokens(shared=False) == 512


def test_chunks_shrink_on_a_slow_machine_but_not_to_nothing() -> None:
    chunks = ChunkSizer(max_tokens=512, target_s=1)
    chunks.observe(64, seconds=60)
    chunks.observe(1, seconds=0.001)

    assert chunks.num_tokens(shared=True) == 32
    assert chunks.num_tokens(shared=False) == 128


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_starve_it() -> None:
    scheduler = scheduler_of(200)
    for number, length in ((1, 400), (2, 40), (3, 6)):
        scheduler.add(sequence_of(number, length))

    assert run_step(scheduler) == [(1, 4), (3, 4)]
    assert run_step(scheduler) == [(1, 4), (3, 2), (2, 2)]
    # Now one is answered, in every step, and the others share what is left of it.
    for _ in range(9):
        assert run_step(scheduler) == [(3, 1), (1, 4), (2, 4)]
    assert run_step(scheduler) == [(3, 1), (1, 6), (2, 2)]
    assert sorted(run_step(scheduler)) == [(1, 8), (2, 1), (3, 1)]


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 120), min_size=1, max_size=6),
    chunk=st.integers(1, 16),
    aborts=st.dictionaries(st.integers(0, 60), st.integers(1, 6), max_size=3),
)
@example(prompts=[120] * 6, chunk=1, aborts={})
def test_no_prompt_holds_up_an_answer_or_a_step(
    prompts: list[int], chunk: int, aborts: dict[int, int]
) -> None:
    """However long prompts are and whoever leaves: every answer moves on in every step, and a step
    computes a bounded number of tokens besides."""
    scheduler = scheduler_of(1000, chunk=chunk)
    sequences = {i: sequence_of(i, length) for i, length in enumerate(prompts, 1)}
    for sequence in sequences.values():
        scheduler.add(sequence)

    for step in range(800):  # six prompts of 120 tokens, one a step, and 20 of the last answer
        if step in aborts:
            scheduler.remove(RequestId(aborts[step]))
            sequences.pop(aborts[step], None)
        answered = [i for i, x in sequences.items() if x.num_sampled_tokens]
        done = dict(run_step(scheduler))
        assert all(done.pop(number) == 1 for number in answered)
        assert sum(done.values()) <= chunk
        unread = [i for i, x in sequences.items() if not x.num_sampled_tokens]
        assert done or not unread
        for number in answered:
            if sequences[number].num_sampled_tokens >= 20:
                scheduler.remove(RequestId(number))
                del sequences[number]
        if not sequences:
            break

    assert not sequences


def alike(number: int, tokens: list[int]) -> Sequence:
    sequence = sequence_of(number, len(tokens))
    sequence.tokens = list(tokens)
    return sequence


def test_equal_prompts_at_once_are_read_once() -> None:
    scheduler = scheduler_of(100)
    prompt = list(range(30))
    for number in (1, 2, 3):
        scheduler.add(alike(number, prompt))
    other = sequence_of(4, 10)
    scheduler.add(other)

    steps = [run_step(scheduler)]
    while len(steps[-1]) < 4:
        steps.append(run_step(scheduler))

    read = [sum(n for step in steps for number, n in step if number == i) for i in (1, 2, 3, 4)]
    # A block is shared when it is full; 28 of 30 tokens are in full blocks.
    decoded = [sum(number == i for step in steps for number, _ in step) for i in (1, 2, 3, 4)]
    assert read[0] >= 30
    assert read[1] <= 2 + decoded[1]
    assert read[2] <= 2 + decoded[2]
    # Nobody else waits for them.
    assert (4, 4) in steps[0]


def test_prompts_that_part_are_read_together_from_there() -> None:
    scheduler = scheduler_of(100, chunk=16)
    common = list(range(20))
    scheduler.add(alike(1, [*common, *range(100, 130)]))
    scheduler.add(alike(2, [*common, *range(200, 230)]))

    assert run_step(scheduler) == [(1, 16)]
    assert run_step(scheduler) == [(1, 16)]
    assert run_step(scheduler) == [(1, 8), (2, 8)]


def test_when_the_one_that_reads_is_aborted_the_next_goes_on_from_there() -> None:
    scheduler = scheduler_of(100)
    prompt = list(range(30))
    scheduler.add(alike(1, prompt))
    scheduler.add(alike(2, prompt))
    assert run_step(scheduler) == [(1, 8)]
    assert run_step(scheduler) == [(1, 8)]

    scheduler.remove(RequestId(1))

    assert run_step(scheduler) == [(2, 8)]
    assert run_step(scheduler) == [(2, 6)]


def test_drafts_are_scheduled_with_their_token_and_their_blocks_stay_within_the_pool() -> None:
    drafter = Drafter(StepCost(lambda num_tokens: 1.0))
    pool = BlockPool(6, 4)
    scheduler = Scheduler(
        pool,
        ChunkSizer(max_tokens=8, target_s=1),
        max_sequences=2,
        context_window=17,
        drafter=drafter,
    )
    copying = alike(1, [5, 6, 7, 8] * 2)
    copying.copied = drafter.begin(copying.tokens)
    scheduler.add(copying)
    run_step(scheduler)
    copying.tokens[-1] = 5
    copying.copied.add(5)

    (item,) = scheduler.schedule()

    # One more token is chosen after them: 9 + 7 + 1 tokens fill the window.
    assert item.draft == (6, 7, 8, 5, 6, 7, 8)
    assert (item.num_tokens, item.num_rows) == (8, 8)
    assert len(copying.blocks) == 4
    scheduler.commit(item, 1 + 2)
    copying.tokens += [6, 7, 1]
    assert copying.num_uncomputed_tokens == 1
    scheduler.remove(copying.id)
    assert pool.num_available == 6


def test_a_draft_takes_no_blocks_that_others_may_need() -> None:
    drafter = Drafter(StepCost(lambda num_tokens: 1.0))
    scheduler = scheduler_of(5, drafter=drafter)
    copying, other = alike(1, [5, 6, 7, 8] * 2), sequence_of(2, 4)
    copying.copied = drafter.begin(copying.tokens)
    for sequence in (copying, other):
        scheduler.add(sequence)
    run_step(scheduler)
    run_step(scheduler)

    scheduled = scheduler.schedule()

    assert [(item.sequence.id, item.draft) for item in scheduled] == [(1, ()), (2, ())]
