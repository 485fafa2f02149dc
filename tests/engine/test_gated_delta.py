"""The gated delta rule gives the same in chunks as token by token, and in batches as alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState
from qcode.engine.layers.gated_delta import (
    PIECE_SIZE,
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


@settings(deadline=None)
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


def step_inputs(counts: list[int], slots: list[int]) -> AttentionInputs:
    unused = torch.zeros(0, dtype=torch.int64)
    return AttentionInputs(
        positions=unused,
        slots=unused,
        query_starts=torch.tensor([0, *counts]).cumsum(0).int(),
        context_lens=unused,
        block_tables=unused,
        state_slots=torch.tensor(slots),
    )


def step(tokens: list[tuple[Tensor, ...]], slots: list[int], cache: DeltaState) -> list[Tensor]:
    """One step of several sequences; of each its qkv, g and beta."""
    counts = [len(part[0]) for part in tokens]
    qkv, g, beta = (torch.cat(parts) for parts in zip(*tokens, strict=True))
    weight = torch.linspace(-1, 1, CHANNELS * KERNEL_SIZE).view(CHANNELS, KERNEL_SIZE)
    inputs = step_inputs(counts, slots)
    return list(cached_gated_delta(qkv, g, beta, weight, cache, inputs).split(counts))


@settings(deadline=None)
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


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class LargestResult(TorchDispatchMode):
    """Notes how many values the largest tensor has that is made, not viewed, meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.num_values = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        given = {storage_of(argument) for argument in args if isinstance(argument, Tensor)}
        if isinstance(result, Tensor) and storage_of(result) not in given:
            self.num_values = max(self.num_values, result.numel())
        return result


def test_a_long_step_needs_no_more_besides_than_a_short_one() -> None:
    """But for its output, which is the largest tensor."""
    count = 32 * PIECE_SIZE
    *_, g, beta = token_inputs(count, 1.0, torch.Generator().manual_seed(0))
    sequence = torch.randn(count, CHANNELS), g.float(), beta.float()
    largest = LargestResult()
    inputs = step_inputs([count], [0])
    weight = torch.ones(CHANNELS, KERNEL_SIZE)
    with largest:
        cached_gated_delta(*sequence, weight, empty_state(), inputs)
    assert largest.num_values == count * VALUE_HEADS * VALUE_DIM


def test_a_lone_sequence_is_decoded_where_its_state_lies() -> None:
    """Copying the state out and back would take as long as computing."""
    key_dim = value_dim = 64
    cache = DeltaState(
        conv=torch.zeros(2, 3 * key_dim, KERNEL_SIZE - 1),
        recurrent=torch.zeros(2, 1, key_dim, value_dim),
    )
    largest = LargestResult()
    qkv, g, weight = torch.randn(1, 3 * key_dim), torch.zeros(1, 1), torch.ones(1, KERNEL_SIZE)
    inputs = step_inputs([1], [1])
    with largest:
        cached_gated_delta(qkv, g, torch.ones(1, 1), weight, cache, inputs)
    assert cache.recurrent[1].any()
    assert not cache.recurrent[0].any()
    assert largest.num_values < key_dim * value_dim
