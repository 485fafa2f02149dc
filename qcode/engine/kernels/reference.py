"""The kernels written plainly in torch: the definition the fast ones are tested against."""

import torch
from torch import Tensor

SCORE_BYTES = 64 * 2**20
"""Upper bound for one float32 block of attention scores."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: x [T, D], weight [D] -> [T, D].

    The mean is taken in float32 and the result cast back before `weight` is applied, as the
    Hugging Face models do. (Zhang and Sennrich, 2019.)
    """
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale).to(x.dtype) * weight


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """The SwiGLU product silu(gate) * up, elementwise."""
    return torch.nn.functional.silu(gate) * up


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, H, D] by the angles in cos, sin [T, R/2]; dimensions from R on pass through.

    GPT-NeoX pairing: dimension i turns with dimension i + R/2.
    """
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    c, s = cos[:, None], sin[:, None]
    rotated = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    return torch.cat((rotated.to(x.dtype), x[..., 2 * half :]), dim=-1)


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    scale: float,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    key_channels: Tensor | None = None,
) -> Tensor:
    """Causal attention over cached keys and values -> [N, Hq, D].

    q [N, Hq, D]; caches [num_blocks, Hkv, block_size, D]; block_tables [B, max_blocks] int32;
    query_starts [B + 1] int32; context_lens [B] int32. Sequence b owns the query rows from
    query_starts[b] to query_starts[b + 1]; they are the last of its context_lens[b] tokens, whose
    keys and values are already in the cache. Each group of Hq / Hkv query heads shares one
    key head. With scales [num_blocks, Hkv, block_size] float32, as float8 and int8 caches have
    them, what is cached times its scale is the key or value; with key_channels [Hkv, D] float32 a
    key is that times them.
    """
    output = torch.empty_like(q)
    block_size = k_cache.shape[2]
    starts, lengths = query_starts.tolist(), context_lens.tolist()
    for b, context_len in enumerate(lengths):
        rows = slice(starts[b], starts[b + 1])
        blocks = block_tables[b, : -(-context_len // block_size)].long()
        keys = _gather(k_cache, k_scales, blocks)[:context_len]
        if key_channels is not None:
            keys *= key_channels
        values = _gather(v_cache, v_scales, blocks)[:context_len]
        output[rows] = _causal_attention(q[rows], keys, values, scale).to(q.dtype)
    return output


def write_cache(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    key_channels: Tensor | None = None,
) -> None:
    """Rows of k, v [N, Hkv, D] to slots [N] int64 of caches as in `paged_attention`."""
    if key_channels is not None:
        k = k / key_channels
    _write(k, slots, k_cache, k_scales)
    _write(v, slots, v_cache, v_scales)


def _write(x: Tensor, slots: Tensor, cache: Tensor, scales: Tensor | None) -> None:
    block_size = cache.shape[2]
    blocks, offsets = slots // block_size, slots % block_size
    if scales is None:
        values = x.to(cache.dtype)
    else:
        values, scale = quantize(x, cache.dtype)
        scales[blocks, :, offsets] = scale
    if cache.dtype.itemsize == 1:
        # Bytes are moved as they are: torch copies no float8 by index.
        cache, values = cache.view(torch.int8), values.view(torch.int8)
    cache[blocks, :, offsets] = values


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


def _gather(cache: Tensor, scales: Tensor | None, blocks: Tensor) -> Tensor:
    """The vectors of these blocks in order: [len(blocks) * block_size, Hkv, D] float32."""
    if cache.dtype.itemsize == 1:
        # Bytes are moved as they are: torch gathers no float8.
        gathered = cache.view(torch.int8)[blocks].view(cache.dtype).float()
    else:
        gathered = cache[blocks].float()
    if scales is not None:
        gathered *= scales[blocks].unsqueeze(-1)
    return gathered.transpose(1, 2).flatten(0, 1)


def _causal_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """q [T, Hq, D] are the last of the S positions of keys, values [S, Hkv, D] -> [T, Hq, D]."""
    num_queries, num_heads, head_dim = q.shape
    context_len, num_kv_heads, _ = keys.shape
    # The query heads of a group become rows of one product: [Hkv, T * G, D] x [Hkv, D, S].
    group = num_heads // num_kv_heads
    grouped = q.float().view(num_queries, num_kv_heads, group, head_dim).transpose(0, 1)
    keys_by_head, values_by_head = keys.permute(1, 2, 0), values.transpose(0, 1)
    positions = torch.arange(context_len, device=q.device)
    chunk = max(1, SCORE_BYTES // max(1, 4 * num_heads * context_len))
    output = torch.empty_like(grouped)
    for start in range(0, num_queries, chunk):
        part = grouped[:, start : start + chunk]
        visible = context_len - num_queries + min(start + chunk, num_queries)
        scores = part.flatten(1, 2) @ keys_by_head[:, :, :visible] * scale
        own = positions[visible - part.shape[1] : visible].repeat_interleave(part.shape[2])
        scores.masked_fill_(positions[None, :visible] > own[:, None], -torch.inf)
        mixed = scores.softmax(-1) @ values_by_head[:, :visible]
        output[:, start : start + chunk] = mixed.view_as(part)
    return output.transpose(0, 1).reshape(num_queries, num_heads, head_dim)
