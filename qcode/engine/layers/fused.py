"""Which layers compiled code can run whole, and running them so.

Decided once, when a network is loaded, layer by layer: every matrix must be one that the kernels
read where it is, and everything small float32 on the CPU. Other layers run as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from qcode.engine.kernels.fused_layer import (
    AttentionParts,
    ExpertsParts,
    FeedForwardParts,
    FusedLayers,
    LayerParts,
    MatrixParts,
    StoredWeight,
)
from qcode.engine.kernels.library import KernelLibrary, installed
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache, PagedKV
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.mlp import GatedMLP
from qcode.engine.layers.moe import MixtureOfExperts, SharedExpert
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.projections import Projections

_HEAD_STEP = 16
"""Sizes of heads are multiples of this in compiled attention."""


class NotFusable(Exception):
    """A part of a layer is nothing the compiled layer could read."""


class Layer(Protocol):
    """`parts` are what a compiled layer needs, or None where it cannot run this one."""

    @property
    def parts(self) -> LayerParts | None: ...

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor: ...


class LayerStack:
    """Layers in order; neighbours that compiled code can run are run by it in one call."""

    def __init__(self, layers: Sequence[Layer], library: KernelLibrary | None) -> None:
        """Without a library every layer runs as it is written."""
        self._runs: list[FusedLayers | Layer] = []
        for is_fused, group in groupby(layers, lambda layer: layer.parts is not None):
            neighbours = list(group)
            if library and is_fused:
                parts = [layer.parts for layer in neighbours if layer.parts is not None]
                self._runs.append(FusedLayers(library, parts))
            else:
                self._runs += neighbours

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        caches: Sequence[LayerCache],
    ) -> Tensor:
        """x [N, D], which may be overwritten -> [N, D]; updates each layer's cache."""
        remaining = iter(caches)
        for run in self._runs:
            if isinstance(run, FusedLayers):
                pages = [cache for _, cache in zip(range(len(run)), remaining, strict=False)]
                x = x.contiguous()
                run.run(x, rotation, inputs, [_paged(cache) for cache in pages])
            else:
                x = run(x, rotation, inputs, next(remaining))
        return x


def _paged(cache: LayerCache) -> PagedKV:
    assert isinstance(cache, PagedKV)
    return cache


def fused_feed_forward(
    norm: RMSNorm, network: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> FusedLayers | None:
    """A layer's feed-forward network with its norm, where compiled code can run that."""
    library = installed()
    if library is None or dtype != torch.float32:
        return None
    try:
        parts = LayerParts(
            post_norm=_floats(norm.weight), eps=norm.eps, feed_forward=_feed_forward(network)
        )
    except NotFusable:
        return None
    return FusedLayers(library, [parts])


def layer_parts(
    *,
    input_norm: RMSNorm,
    qkv_proj: Projections,
    o_proj: Linear,
    qk_norms: tuple[RMSNorm, RMSNorm] | None,
    head_dim: int,
    is_gated: bool,
    post_norm: RMSNorm,
    feed_forward: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> LayerParts | None:
    """A layer for compiled code, or None where it cannot run it on activations of this dtype."""
    if dtype != torch.float32 or head_dim % _HEAD_STEP:
        return None
    try:
        q, k, v = _projections(qkv_proj, 3)
        q_norm, k_norm = (_floats(norm.weight) for norm in qk_norms) if qk_norms else (None, None)
        return LayerParts(
            input_norm=_floats(input_norm.weight),
            post_norm=_floats(post_norm.weight),
            eps=input_norm.eps,
            attention=AttentionParts(
                q=q,
                k=k,
                v=v,
                o=_matrix(o_proj),
                head_dim=head_dim,
                is_gated=is_gated,
                q_norm=q_norm,
                k_norm=k_norm,
            ),
            feed_forward=_feed_forward(feed_forward),
        )
    except NotFusable:
        return None


def _feed_forward(network: Callable[[Tensor], Tensor]) -> FeedForwardParts | ExpertsParts:
    if isinstance(network, GatedMLP):
        return _mlp(network)
    if isinstance(network, MixtureOfExperts):
        return _mixture(network)
    raise NotFusable


def _mlp(network: object) -> FeedForwardParts:
    if not isinstance(network, GatedMLP):
        raise NotFusable
    gate, up = _projections(network.gate_up_proj, 2)
    return FeedForwardParts(gate=gate, up=up, down=_matrix(network.down_proj))


def _mixture(network: MixtureOfExperts) -> ExpertsParts:
    shared, gate = None, None
    if network.shared_expert is not None:
        if not isinstance(network.shared_expert, SharedExpert):
            raise NotFusable
        shared, gate = _mlp(network.shared_expert.mlp), _floats(network.shared_expert.gate)
    return ExpertsParts(
        router=_matrix(network.router, may_be_float32=True),
        experts=[_mlp(expert) for expert in network.experts],
        experts_per_token=network.experts_per_token,
        norm_topk_prob=network.norm_topk_prob,
        shared=shared,
        shared_gate=gate,
    )


def _projections(projections: Projections, count: int) -> list[MatrixParts]:
    if len(projections.layers) != count:
        raise NotFusable
    return [_matrix(layer) for layer in projections.layers]


def _matrix(linear: Linear, *, may_be_float32: bool = False) -> MatrixParts:
    """Large float32 matrices are left to torch's own products, which are faster for many rows."""
    weight = linear.weight
    stored = weight.stored_matrix() if isinstance(weight, StoredWeight) else None
    if stored is None or (stored.data.dtype == torch.float32 and not may_be_float32):
        raise NotFusable
    return MatrixParts(weight=stored, bias=None if linear.bias is None else _floats(linear.bias))


def _floats(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise NotFusable
    return tensor
