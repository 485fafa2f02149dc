"""A token's result is the same to the last bit, whatever is computed in the step with it.

That is what makes an answer with drafts the answer without: products round activations to 8 bits,
so one different bit could grow into another token.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from random_layer import (
    BLOCK_SIZE,
    CACHE_DTYPES,
    HIDDEN,
    PACKED,
    Layer,
    Shape,
    cache_for,
    copy,
)
from torch import Tensor

from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import PagedKV
from qcode.engine.quantization.block_layouts import GgmlType

MOST = 32
"""Tokens of one sequence in a step, up to which the promise holds."""
PASTS = (497, 1023, 5)
"""What is cached of each sequence: the first two pass the end of a chunk of keys (512)."""
BLOCKS = (max(PASTS) + MOST) // BLOCK_SIZE + 1
STEPS = [[2] * 16, [3, 5, 7, 1, 11, 5], [8] * 4, [31, 1], [32]]


def step_inputs(tokens: dict[int, tuple[int, int]]) -> AttentionInputs:
    """For each sequence how many tokens are cached and how many are new."""
    tables = torch.arange(len(PASTS) * BLOCKS, dtype=torch.int32).flip(0).view(len(PASTS), BLOCKS)
    positions, slots, starts = [], [], [0]
    for sequence, (past, new) in tokens.items():
        table = tables[sequence].tolist()
        for position in range(past, past + new):
            positions.append(position)
            slots.append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(positions))
    return AttentionInputs(
        positions=torch.tensor(positions),
        slots=torch.tensor(slots, dtype=torch.int64),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        context_lens=torch.tensor([sum(item) for item in tokens.values()], dtype=torch.int32),
        block_tables=tables[list(tokens)],
    )


class Steps:
    """A layer, what its three sequences have cached, and the tokens that follow in each."""

    def __init__(self, library: KernelLibrary, shape: Shape, dtype: torch.dtype) -> None:
        self.layer = Layer(library, shape)
        whole = step_inputs({0: (0, 1), 1: (0, 1), 2: (0, 1)})
        self.cache = cache_for(whole, shape.head_dim, dtype)
        generator = torch.Generator().manual_seed(2)
        self.x = torch.randn(len(PASTS), MOST, HIDDEN, generator=generator)

    def run(self, sizes: Sequence[int], others: Sequence[int] = (), sequence: int = 0) -> Tensor:
        """The results of a sequence in steps of these sizes, with one token of each of `others` in
        every step."""
        cache, results, done = copy(self.cache), [], 0
        for step, size in enumerate(sizes):
            tokens = {other: (PASTS[other] + step, 1) for other in others}
            tokens[sequence] = (PASTS[sequence] + done, size)
            x = [self.x[other, step : step + 1] for other in others]
            x.append(self.x[sequence, done : done + size])
            results.append(self.step(torch.cat(x), tokens, cache)[len(others) :])
            done += size
        return torch.cat(results)

    def step(self, x: Tensor, tokens: dict[int, tuple[int, int]], cache: PagedKV) -> Tensor:
        return self.layer.run_fused(x, step_inputs(tokens), cache)


def check(
    library: KernelLibrary, shape: Shape, dtype: torch.dtype, steps: Sequence[Sequence[int]] = STEPS
) -> None:
    run = Steps(library, shape, dtype).run
    alone = run([1] * MOST)
    for sizes in steps:
        assert torch.equal(run(sizes), alone)
        assert torch.equal(run(sizes, others=[1, 2]), alone)


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_every_kind_of_cache(library: KernelLibrary, dtype: torch.dtype, head_dim: int) -> None:
    check(library, Shape(head_dim=head_dim, rotary_dim=head_dim), dtype)


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("is_packed", [True, False])
def test_every_kind_of_weight(library: KernelLibrary, kind: GgmlType, is_packed: bool) -> None:
    check(library, Shape(kind=kind, is_packed=is_packed), torch.float16, steps=STEPS[1:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [896, 41])
def test_products_with_weights_of_floats(
    library: KernelLibrary, dtype: torch.dtype, width: int
) -> None:
    kinds = {torch.float32: GgmlType.F32, torch.float16: GgmlType.F16}
    kind = kinds.get(dtype, GgmlType.BF16)
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(37, width, generator=generator).to(dtype)
    x = torch.randn(MOST, width, generator=generator)

    def products(size: int) -> Tensor:
        shape = (37, width)
        return torch.cat(
            [library.multiply_rows(weight, kind, shape, part) for part in torch.split(x, size)]
        )

    for size in (2, 3, 5, 6, 7, 13, MOST):
        assert torch.equal(products(size), products(1))


@pytest.mark.parametrize(
    "shape",
    [
        Shape(has_bias=True),
        Shape(has_qk_norm=True, head_dim=128, rotary_dim=128),
        Shape(has_qk_norm=True, is_gated=True, rotary_dim=16),
        Shape(num_experts=6, intermediate=256),
        Shape(num_experts=6, intermediate=256, norm_topk_prob=False, per_token=3),
        Shape(num_experts=5, intermediate=256, has_shared=True, is_gated=True, has_qk_norm=True),
        Shape(num_experts=4, intermediate=256, is_packed=False, per_token=4),
    ],
    ids=repr,
)
def test_every_kind_of_layer(library: KernelLibrary, shape: Shape) -> None:
    check(library, shape, torch.float16, steps=STEPS[1:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8], ids=str)
@pytest.mark.parametrize("num_experts", [0, 6])
def test_any_number_of_threads(
    library: KernelLibrary, dtype: torch.dtype, num_experts: int
) -> None:
    steps = Steps(library, Shape(num_experts=num_experts, intermediate=256), dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [steps.run([1] * MOST, sequence=sequence) for sequence in (0, 1)]
        for threads in (2, 7):
            torch.set_num_threads(threads)
            for sequence, expected in enumerate(alone):
                for sizes in ([1] * MOST, [5, 16, 11]):
                    assert torch.equal(steps.run(sizes, sequence=sequence), expected)
    finally:
        torch.set_num_threads(before)


def test_what_a_guess_left_in_the_cache_is_not_seen(library: KernelLibrary) -> None:
    steps = Steps(library, Shape(), torch.float16)
    alone = steps.run([1] * MOST)
    guessed = steps.x.clone()
    guessed[0, 3:] *= -1e6
    cache = copy(steps.cache)
    result = steps.step(guessed[0, :8], {0: (PASTS[0], 8)}, cache)
    assert torch.equal(result[:3], alone[:3])
    again = steps.step(steps.x[0, 3:8], {0: (PASTS[0] + 3, 5)}, cache)
    assert torch.equal(again, alone[3:8])
