"""Grouped-query attention over a paged key and value cache.

N tokens of B sequences run in one step, the rows of one sequence next to one another. Key and
value caches are [num_blocks, block_size, Hkv, D]; a slot is block * block_size + offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcode.engine import kernels
from qcode.engine.layers.cache import PagedKV


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
    _write(k, inputs.slots, cache.keys, cache.key_scales)
    _write(v, inputs.slots, cache.values, cache.value_scales)
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
    )


def _write(x: Tensor, slots: Tensor, cache: Tensor, scales: Tensor | None) -> None:
    """x [N, Hkv, D] to its slots of a cache [num_blocks, block_size, Hkv, D] and its scales."""
    if scales is None:
        values = x.to(cache.dtype)
    else:
        values, scale = quantize(x, cache.dtype)
        scales.view(-1, x.shape[1]).index_copy_(0, slots, scale)
    if cache.dtype.itemsize == 1:
        # Bytes are moved as they are: torch copies no float8 by index.
        cache, values = cache.view(torch.int8), values.view(torch.int8)
    cache.view(-1, *x.shape[1:]).index_copy_(0, slots, values)


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [..., D] -> values [..., D] of int8 or float8 and scales [...] float32, whose product is x
    to within half a step (int8) or 1/16 (float8) of each value.

    The largest value of a row becomes the largest of the format.
    """
    x = x.float()
    limit = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = x.abs().amax(-1) / limit
    # A row of zeros, or of values too small to tell from it, has scale 0.
    divisor = scale.masked_fill(scale == 0, 1.0).unsqueeze(-1)
    values = (x / divisor).clamp(-limit, limit)
    return (values.round() if dtype == torch.int8 else values).to(dtype), scale
