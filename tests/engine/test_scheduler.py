from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.sampling.sampler import ResolvedSampling
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.scheduler import ChunkSizer, Scheduler
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.scheduling.state_pool import StatePool

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
    num_blocks: int, *, chunk: int = 8, max_sequences: int = 8, num_slots: int = 0
) -> Scheduler:
    """With slots for recurrent states, if that many are given."""
    return Scheduler(
        BlockPool(num_blocks, 4),
        ChunkSizer(max_tokens=chunk, target_s=1),
        max_sequences=max_sequences,
        context_window=1000,
        states=StatePool(num_slots, 4) if num_slots else None,
    )


def run_step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Compute what is scheduled, append a token where one is due: (request, tokens) of each."""
    scheduled = scheduler.schedule()
    for item in scheduled:
        scheduler.commit(item, item.num_tokens)
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
    scheduler = Scheduler(pool, ChunkSizer(max_tokens=8, target_s=1), max_sequences=1, context_window=1000)
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
