"""Layers run whole by compiled code against the same layers run part by part."""

from __future__ import annotations

import ctypes

import pytest
import torch
from random_layer import (
    CACHE_DTYPES,
    HIDDEN,
    PACKED,
    Layer,
    Shape,
    cache_for,
    copy,
    inputs_of,
)
from torch import Tensor

from qcode.engine.kernels.fused_layer import STRUCTURES
from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache, PagedKV
from qcode.engine.layers.fused import LayerStack
from qcode.engine.quantization.block_layouts import GgmlType


def check(
    library: KernelLibrary,
    shape: Shape,
    inputs: AttentionInputs,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> None:
    """Rounding to 8 bits may fall to either side of a half, so a few values differ by its step;
    against int8 keys, queries and weights are rounded to 16 bits before."""
    layer = Layer(library, shape)
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(len(inputs.positions), HIDDEN, generator=generator) * scale
    plain_cache = cache_for(inputs, shape.head_dim, dtype)
    fused_cache = copy(plain_cache)
    expected = layer.run_plain(x, inputs, plain_cache)
    result = layer.run_fused(x, inputs, fused_cache)
    added = (expected - x).abs().max()
    assert (result - expected).abs().max() <= 0.01 * added + 1e-6 * x.abs().max()
    bound = 5e-3 if dtype == torch.int8 else 2e-3
    assert (result - expected).norm() <= bound * (expected - x).norm() + 1e-6 * x.norm()
    for mine, theirs in (
        (fused_cache.keys, plain_cache.keys),
        (fused_cache.values, plain_cache.values),
    ):
        step = 1 if dtype == torch.int8 else 0
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.13, atol=step + 1e-3)


def test_the_structures_are_those_of_the_compiled_code(library: KernelLibrary) -> None:
    assert library.decoder_sizes() == [ctypes.sizeof(structure) for structure in STRUCTURES]


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("is_packed", [True, False])
def test_every_kind_of_weight(library: KernelLibrary, kind: GgmlType, is_packed: bool) -> None:
    shape = Shape(kind=kind, is_packed=is_packed, has_bias=True)
    check(library, shape, inputs_of((20, 1)))
    check(library, shape, inputs_of((0, 5), (33, 1), (15, 4)))


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_every_kind_of_cache(library: KernelLibrary, dtype: torch.dtype) -> None:
    check(library, Shape(), inputs_of((37, 1)), dtype)
    check(library, Shape(), inputs_of((0, 19), (16, 3)), dtype)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(has_qk_norm=True, head_dim=128, rotary_dim=128),
        Shape(has_qk_norm=True, is_gated=True, rotary_dim=16),
        Shape(intermediate=768),
        Shape(num_experts=6, intermediate=256),
        Shape(num_experts=6, intermediate=256, norm_topk_prob=False, per_token=3),
        Shape(num_experts=5, intermediate=256, has_shared=True, is_gated=True, has_qk_norm=True),
        Shape(num_experts=4, intermediate=256, is_packed=False, per_token=4),
    ],
    ids=repr,
)
@pytest.mark.parametrize("sequences", [[(9, 1)], [(0, 3)], [(3, 1), (0, 70), (40, 8)]])
def test_every_kind_of_layer(
    library: KernelLibrary, shape: Shape, sequences: list[tuple[int, int]]
) -> None:
    check(library, shape, inputs_of(*sequences))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e4, 1e12])
def test_extreme_activations(library: KernelLibrary, scale: float) -> None:
    check(library, Shape(has_bias=True), inputs_of((5, 2)), scale=scale)


def test_no_token(library: KernelLibrary) -> None:
    layer = Layer(library, Shape(num_experts=3, intermediate=256))
    inputs = inputs_of((4, 0))
    x = torch.empty(0, HIDDEN)
    assert layer.run_fused(x, inputs, cache_for(inputs, 64, torch.float16)).shape == (0, HIDDEN)


@pytest.mark.parametrize("num_experts", [0, 6])
def test_the_number_of_threads_changes_nothing(library: KernelLibrary, num_experts: int) -> None:
    layer = Layer(library, Shape(num_experts=num_experts, is_gated=True))
    inputs = inputs_of((3, 1), (0, 40))
    x = torch.randn(len(inputs.positions), HIDDEN, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(layer.run_fused(x, inputs, cache_for(inputs, 64, torch.float16)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


class StackedLayer:
    """A layer as a network has it, fused only if it may be."""

    def __init__(self, layer: Layer, *, may_be_fused: bool) -> None:
        self.layer = layer
        self.parts = layer.parts() if may_be_fused else None
        self.calls = 0

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor:
        assert isinstance(cache, PagedKV)
        self.calls += 1
        return self.layer.run_plain(x, inputs, cache)


def test_layers_that_cannot_be_fused_run_between_those_that_can(library: KernelLibrary) -> None:
    fusable = [True, True, False, True]
    layers = [
        StackedLayer(Layer(library, Shape(kind=kind)), may_be_fused=may_be_fused)
        for may_be_fused, kind in zip(fusable, PACKED, strict=False)
    ]
    stack = LayerStack(layers, library)
    inputs = inputs_of((20, 3), (0, 2))
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(4))
    for step in range(2):  # the second with caches of its own
        caches = [cache_for(inputs, 64, torch.float32) for _ in layers]
        expected = x
        for layer, cache in zip(layers, caches, strict=True):
            expected = layer.layer.run_plain(expected, inputs, copy(cache))
        result = stack(x.clone(), layers[0].layer.rotary(inputs.positions), inputs, caches)
        assert (result - expected).norm() <= 5e-3 * (expected - x).norm()
        assert [layer.calls for layer in layers] == [0, 0, step + 1, 0]


def test_without_compiled_kernels_every_layer_runs_as_written(library: KernelLibrary) -> None:
    layer = StackedLayer(Layer(library, Shape()), may_be_fused=True)
    inputs = inputs_of((0, 2))
    x = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(4))
    LayerStack([layer], None)(
        x, layer.layer.rotary(inputs.positions), inputs, [cache_for(inputs, 64, torch.float32)]
    )
    assert layer.calls == 1
