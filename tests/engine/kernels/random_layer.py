"""Decoder layers with random weights, run whole by compiled code or part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qcode.engine.kernels import reference
from qcode.engine.kernels.fused_layer import FusedLayers, LayerParts
from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import PagedKV
from qcode.engine.layers.fused import layer_parts
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.mlp import GatedMLP
from qcode.engine.layers.moe import MixtureOfExperts, SharedExpert
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.projections import Projections
from qcode.engine.layers.rotary import RotaryEmbedding
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import GgmlWeight
from qcode.engine.quantization.weight_format import DenseWeight, Weight

EPS = 1e-6
HIDDEN, HEADS, KV_HEADS, BLOCK_SIZE = 256, 4, 2, 16
PACKED = [
    GgmlType.Q4_0,
    GgmlType.Q5_0,
    GgmlType.Q8_0,
    GgmlType.Q4_K,
    GgmlType.Q5_K,
    GgmlType.Q6_K,
]
SCALES = {GgmlType.Q4_K: (0, 2), GgmlType.Q5_K: (0, 2), GgmlType.Q6_K: (208,)}
CACHE_DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.float8_e4m3fn,
]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a layer may vary."""

    kind: GgmlType = GgmlType.Q4_K
    is_packed: bool = True
    head_dim: int = 64
    rotary_dim: int = 64
    is_gated: bool = False
    has_bias: bool = False
    has_qk_norm: bool = False
    intermediate: int = 512
    num_experts: int = 0
    per_token: int = 2
    norm_topk_prob: bool = True
    has_shared: bool = False


class Layer:
    """A decoder layer with random weights, and its plain run."""

    def __init__(self, library: KernelLibrary, shape: Shape) -> None:
        self.library, self.shape = library, shape
        self.random = np.random.default_rng(7)
        gates = 2 if shape.is_gated else 1
        rows = [HEADS * shape.head_dim * gates, *(KV_HEADS * shape.head_dim,) * 2]
        self.input_norm, self.post_norm = self.norm(HIDDEN), self.norm(HIDDEN)
        self.qk_norms = (
            (self.norm(shape.head_dim), self.norm(shape.head_dim)) if shape.has_qk_norm else None
        )
        biases = [self.vector(count) for count in rows] if shape.has_bias else []
        self.qkv = Projections([self.weight(count, HIDDEN) for count in rows], biases)
        self.o_proj = Linear(
            self.weight(HIDDEN, HEADS * shape.head_dim),
            self.vector(HIDDEN) if shape.has_bias else None,
        )
        self.network: Callable[[Tensor], Tensor] = (
            self.mixture() if shape.num_experts else self.mlp()
        )
        self.rotary = RotaryEmbedding(shape.rotary_dim, 1e4, None, torch.device("cpu"))

    def vector(self, size: int) -> Tensor:
        return torch.from_numpy(self.random.normal(size=size)).float()

    def norm(self, size: int) -> RMSNorm:
        return RMSNorm(self.vector(size), EPS)

    def weight(self, rows: int, columns: int) -> Weight:
        kind = self.shape.kind
        block = BLOCK_LAYOUTS[kind]
        count = rows * columns // block.block_size
        raw = self.random.integers(0, 256, (count, block.block_bytes), dtype=np.uint8)
        for offset in SCALES.get(kind, (0,)):
            scales = self.random.uniform(-1, 1, (count, 1)) / 1000 / 2 ** (kind in SCALES)
            raw[:, offset : offset + 2] = scales.astype(np.float16).view(np.uint8)
        data = torch.from_numpy(raw)
        if self.shape.is_packed:
            return PackedWeight(self.library, data, kind, (rows, columns))
        return GgmlWeight(data, kind, (rows, columns))

    def mlp(self) -> GatedMLP:
        wide = self.shape.intermediate
        return GatedMLP(
            self.weight(wide, HIDDEN), self.weight(wide, HIDDEN), self.weight(HIDDEN, wide)
        )

    def mixture(self) -> MixtureOfExperts:
        router = DenseWeight(self.vector(self.shape.num_experts * HIDDEN).view(-1, HIDDEN))
        return MixtureOfExperts(
            Linear(router),
            [self.mlp() for _ in range(self.shape.num_experts)],
            self.shape.per_token,
            norm_topk_prob=self.shape.norm_topk_prob,
            shared_expert=SharedExpert(self.vector(HIDDEN), self.mlp())
            if self.shape.has_shared
            else None,
        )

    def parts(self) -> LayerParts | None:
        return layer_parts(
            input_norm=self.input_norm,
            qkv_proj=self.qkv,
            o_proj=self.o_proj,
            qk_norms=self.qk_norms,
            head_dim=self.shape.head_dim,
            is_gated=self.shape.is_gated,
            post_norm=self.post_norm,
            feed_forward=self.network,
            dtype=torch.float32,
        )

    def fused(self) -> FusedLayers:
        parts = self.parts()
        assert parts is not None
        return FusedLayers(self.library, [parts])

    def run_fused(self, x: Tensor, inputs: AttentionInputs, cache: PagedKV) -> Tensor:
        result = x.clone()
        self.fused().run(result, self.rotary(inputs.positions), inputs, [cache])
        return result

    def run_plain(self, x: Tensor, inputs: AttentionInputs, cache: PagedKV) -> Tensor:
        head_dim, rotation = self.shape.head_dim, self.rotary(inputs.positions)
        normed = reference.rms_norm(x, self.input_norm.weight, EPS)
        q, k, v = (part.view(len(x), -1, head_dim) for part in self.qkv(normed))
        gate = None
        if self.shape.is_gated:
            q, gate = q[:, 0::2], q[:, 1::2]
        if self.qk_norms:
            q = reference.rms_norm(q, self.qk_norms[0].weight, EPS)
            k = reference.rms_norm(k, self.qk_norms[1].weight, EPS)
        q, k = (reference.apply_rotary(part, *rotation) for part in (q, k))
        reference.write_cache(
            k, v, inputs.slots, cache.keys, cache.values, cache.key_scales, cache.value_scales
        )
        attended = reference.paged_attention(
            q,
            cache.keys,
            cache.values,
            inputs.block_tables,
            inputs.query_starts,
            inputs.context_lens,
            head_dim**-0.5,
            cache.key_scales,
            cache.value_scales,
        )
        if gate is not None:
            attended = attended * gate.sigmoid()
        x = x + self.o_proj(attended.flatten(1))
        return x + self.network(reference.rms_norm(x, self.post_norm.weight, EPS))


def inputs_of(*sequences: tuple[int, int]) -> AttentionInputs:
    """For each sequence how many tokens are cached and how many are new."""
    num_blocks = max(-(-sum(sequence) // BLOCK_SIZE) for sequence in sequences)
    tables = torch.arange(1, 1 + len(sequences) * num_blocks, dtype=torch.int32).flip(0)
    tables = tables.view(len(sequences), num_blocks)
    positions, slots, starts = [], [], [0]
    for table, (past, new) in zip(tables.tolist(), sequences, strict=True):
        for position in range(past, past + new):
            positions.append(position)
            slots.append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(positions))
    return AttentionInputs(
        positions=torch.tensor(positions),
        slots=torch.tensor(slots, dtype=torch.int64),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        context_lens=torch.tensor([sum(s) for s in sequences], dtype=torch.int32),
        block_tables=tables,
    )


def cache_for(inputs: AttentionInputs, head_dim: int, dtype: torch.dtype) -> PagedKV:
    """Filled with what came before."""
    shape = (int(inputs.block_tables.max()) + 1, KV_HEADS, BLOCK_SIZE, head_dim)
    generator = torch.Generator().manual_seed(5)
    scaled = dtype.itemsize == 1

    def values() -> Tensor:
        return (torch.randn(shape, generator=generator) * (30 if scaled else 1)).to(dtype)

    def scales() -> Tensor | None:
        return torch.rand(shape[:3], generator=generator) / 30 if scaled else None

    return PagedKV(keys=values(), values=values(), key_scales=scales(), value_scales=scales())


def copy(cache: PagedKV) -> PagedKV:
    return replace(
        cache,
        keys=cache.keys.clone(),
        values=cache.values.clone(),
        key_scales=None if cache.key_scales is None else cache.key_scales.clone(),
        value_scales=None if cache.value_scales is None else cache.value_scales.clone(),
    )
