"""The gated delta rule gives the same in chunks as token by token, and in batches as alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState
from qcode.engine.layers.gated_delta import (
    cached_gated_delta,
    chunked_gated_delta,
    recurrent_gated_delta,
)

KEY_HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM, KERNEL_SIZE = 2, 4, 8, 6, 4
CHANNELS = 2 * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM
NUM_SLOTS = 6


def token_inputs(
    count: int, fastest_decay: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """q, k of about unit length, v, g <= 0 and beta from 0 to 1, in float64."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    q, k = (functional.normalize(normal(count, VALUE_HEADS, KEY_DIM), dim=-1) for _ in "qk")
    v = normal(count, VALUE_HEADS, VALUE_DIM)
    g = -fastest_decay * torch.rand(count, VALUE_HEADS, dtype=torch.float64, generator=generator)
    return q, k, v, g, normal(count, VALUE_HEADS).sigmoid()


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    fastest_decay=st.sampled_from([0.0, 0.1, 2.0, 50.0, 1e4]),
    seed=st.integers(0, 2**32),
)
def test_chunks_equal_single_tokens(lengths: list[int], fastest_decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = token_inputs(sum(lengths), fastest_decay, generator)
    state = torch.randn(VALUE_HEADS, KEY_DIM, VALUE_DIM, dtype=torch.float64, generator=generator)
    recurrent = state.clone().unsqueeze(0)
    expected = torch.cat(
        [
            recurrent_gated_delta(*(part[t : t + 1] for part in inputs), recurrent)
            for t in range(sum(lengths))
        ]
    )
    pieces = zip(*(part.split(lengths) for part in inputs), strict=True)
    actual = torch.cat([chunked_gated_delta(*piece, state) for piece in pieces])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, recurrent[0], rtol=1e-9, atol=1e-9)


def test_a_token_fades_and_corrects_what_its_key_finds() -> None:
    state = torch.tensor([[[[2.0, 4.0], [6.0, 8.0]]]])
    q, k = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    v, half = torch.tensor([[[10.0, 0.0]]]), torch.tensor([[0.5]])
    output = recurrent_gated_delta(q, k, v, half.log(), half, state)
    # Faded to half, the key finds (1, 2), and goes half the way from there to (10, 0).
    assert state.tolist() == [[[[5.5, 1.0], [3.0, 4.0]]]]
    assert output.tolist() == [[[8.5, 5.0]]]


def empty_state() -> DeltaState:
    return DeltaState(
        conv=torch.zeros(NUM_SLOTS, CHANNELS, KERNEL_SIZE - 1),
        recurrent=torch.zeros(NUM_SLOTS, VALUE_HEADS, KEY_DIM, VALUE_DIM),
    )


def step(tokens: list[tuple[Tensor, ...]], slots: list[int], cache: DeltaState) -> list[Tensor]:
    """One step of several sequences; of each its qkv, g and beta."""
    counts = [len(part[0]) for part in tokens]
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    unused = torch.zeros(0, dtype=torch.int64)
    inputs = AttentionInputs(
        positions=unused,
        slots=unused,
        query_starts=starts,
        context_lens=unused,
        block_tables=unused,
        state_slots=torch.tensor(slots),
    )
    qkv, g, beta = (torch.cat(parts) for parts in zip(*tokens, strict=True))
    weight = torch.linspace(-1, 1, CHANNELS * KERNEL_SIZE).view(CHANNELS, KERNEL_SIZE)
    return list(cached_gated_delta(qkv, g, beta, weight, cache, inputs).split(counts))


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    steps=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_batches_equal_sequences_alone(lengths: list[int], steps: list[int], seed: int) -> None:
    """Whatever part of each sequence a step takes, only rows of its own slot change."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for length in lengths:
        *_, g, beta = token_inputs(length, 1.0, generator)
        sequences.append(
            (torch.randn(length, CHANNELS, generator=generator), g.float(), beta.float())
        )
    slots = torch.randperm(NUM_SLOTS, generator=generator)[: len(lengths)].tolist()

    together, expected = empty_state(), []
    for slot, sequence in zip(slots, sequences, strict=True):
        expected += step([sequence], [slot], together)
    batched, actual = empty_state(), [list[Tensor]() for _ in lengths]
    done = [0] * len(lengths)
    while any(done[b] < lengths[b] for b in range(len(lengths))):
        running = [b for b in range(len(lengths)) if done[b] < lengths[b]]
        parts = []
        for b in running:
            stop = done[b] + steps[b % len(steps)]
            parts.append(tuple(part[done[b] : stop] for part in sequences[b]))
            done[b] = stop
        results = step(parts, [slots[b] for b in running], batched)
        for b, result in zip(running, results, strict=True):
            actual[b].append(result)
    for parts, whole in zip(actual, expected, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batched.conv, together.conv, rtol=0, atol=0)
    torch.testing.assert_close(batched.recurrent, together.recurrent, rtol=1e-4, atol=1e-5)
    others = [slot for slot in range(NUM_SLOTS) if slot not in slots]
    assert not batched.conv[others].any()
    assert not batched.recurrent[others].any()
