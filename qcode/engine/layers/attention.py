"""Grouped-query attention over a paged key and value cache.

N tokens of B sequences run in one step, the rows of one sequence next to one another. Key and
value caches are [num_blocks, Hkv, block_size, D]; a slot is block * block_size + offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcode.engine import kernels
from qcode.engine.layers.cache import PagedKV

ORDINARY_BIAS = 8.0
"""As large as what the inputs make of a key's dimension: smaller biases need no care."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """Which token is where, for one step: an argument of `forward`, never module state."""

    positions: Tensor
    """[N] int64: position of each token in its sequence."""
    slots: Tensor
    """[N] int64: the slot each token's key and value are written to."""
    query_starts: Tensor
    """[B+1] int32: rows query_starts[b] to query_starts[b+1] belong to sequence b."""
    context_lens: Tensor
    """[B] int32: cached tokens of each sequence once this step's tokens are written."""
    block_tables: Tensor
    """[B, max_blocks] int32: the blocks of each sequence in order; unused entries are ignored."""
    state_slots: Tensor | None = None
    """[B] int64: the row of each sequence in the states of linear attention layers, if any."""


def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    inputs: AttentionInputs,
    *,
    scale: float,
) -> Tensor:
    """Write k, v [N, Hkv, D] to their slots, then attend causally with q [N, Hq, D] -> [N, Hq, D].

    A query sees every cached token of its own sequence up to its own position.
    """
    kernels.write_cache(
        k,
        v,
        inputs.slots,
        cache.keys,
        cache.values,
        cache.key_scales,
        cache.value_scales,
        cache.key_channels,
    )
    return kernels.paged_attention(
        q,
        cache.keys,
        cache.values,
        inputs.block_tables,
        inputs.query_starts,
        inputs.context_lens,
        scale,
        cache.key_scales,
        cache.value_scales,
        cache.key_channels,
    )


def key_channels(bias: Tensor, head_dim: int, rotary_dim: int) -> Tensor:
    """What int8 keys are to be divided by: [Hkv, D] float32, from their bias [Hkv * D].

    A bias can be a hundred times what the inputs add to it, the same for every key (Qwen2.5). With
    one step for the whole vector little would be left of the other dimensions. Both dimensions of a
    rotated pair get one factor, which is then right wherever the key is rotated to; powers of two
    divide without rounding. (The idea is SmoothQuant's, Xiao et al., 2023.)
    """
    size = bias.float().view(-1, head_dim).abs()
    half = rotary_dim // 2
    pairs = torch.hypot(size[:, :half], size[:, half:rotary_dim])
    size = torch.cat((pairs, pairs, size[:, rotary_dim:]), dim=-1)
    return (size / ORDINARY_BIAS).clamp_min(1.0).log2().round().exp2()
