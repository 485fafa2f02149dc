"""Gated DeltaNet: linear attention whose memory is one matrix for each head (Yang et al., 2024).

Each token lets the matrix S [dk, dv] fade, replaces what it holds for its key by its value (the
delta rule; beta says how far), and reads it with its query:

    S <- S exp(g);  S <- S + k (beta (v - S^T k))^T;  o = S^T q

N tokens of B sequences run in one step; Hk key heads each serve Hv / Hk value heads next to one
another. Queries, keys and values first pass a short causal convolution of C channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from qcode.engine import kernels
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState

CHUNK_SIZE = 64
"""Tokens whose effects on one another are worked out by matrix products, not one by one."""

PIECE_SIZE = 2 * CHUNK_SIZE
"""A long prompt goes through the layer in pieces of this many tokens: what a piece needs besides,
about ten times its queries, keys and values, stays small however many tokens a step has."""

_UNIT_EPS = 1e-6


def cached_gated_delta(
    qkv: Tensor,
    g: Tensor,
    beta: Tensor,
    conv_weight: Tensor,
    cache: DeltaState,
    inputs: AttentionInputs,
) -> Tensor:
    """Continue each sequence from its state, which is brought up to date -> [N, Hv, dv] float32.

    qkv [N, C]: queries, keys and values of all heads, before the convolution; g (the logarithm of
    the decay) and beta [N, Hv] float32; conv_weight [C, kernel size] float32.
    """
    assert inputs.state_slots is not None
    if len(qkv) == len(inputs.query_starts) - 1:
        return _decode(qkv, g, beta, conv_weight, cache, inputs.state_slots)
    output = g.new_empty(*g.shape, cache.recurrent.shape[-1])
    starts, slots = inputs.query_starts.tolist(), inputs.state_slots.tolist()
    single = []
    for b, (start, stop) in enumerate(pairwise(starts)):
        if stop - start == 1:
            single.append(b)
            continue
        conv, state = cache.conv[slots[b]], cache.recurrent[slots[b]]
        for first in range(start, stop, PIECE_SIZE):
            rows = slice(first, min(first + PIECE_SIZE, stop))
            q, k, v = _split_heads(_convolve(qkv[rows], conv_weight, conv), state)
            output[rows] = chunked_gated_delta(q, k, v, g[rows], beta[rows], state)
    if single:
        decoding = torch.tensor(single, device=qkv.device)
        at = inputs.query_starts[decoding].long()
        output[at] = _decode(
            qkv[at], g[at], beta[at], conv_weight, cache, inputs.state_slots[decoding]
        )
    return output


def _decode(
    qkv: Tensor, g: Tensor, beta: Tensor, conv_weight: Tensor, cache: DeltaState, slots: Tensor
) -> Tensor:
    """One token of each sequence: qkv [B, C], slots [B] -> [B, Hv, dv]."""
    compiled = kernels.gated_delta_step(
        qkv, g, beta, conv_weight, cache.conv, cache.recurrent, slots
    )
    if compiled is not None:
        return compiled
    return decode_step(qkv, g, beta, conv_weight, cache, slots)


def decode_step(
    qkv: Tensor, g: Tensor, beta: Tensor, conv_weight: Tensor, cache: DeltaState, slots: Tensor
) -> Tensor:
    """As the compiled kernel, which is tested against it: [B, C] -> [B, Hv, dv]."""
    rows: slice | Tensor = slots
    if len(slots) == 1 and slots.device.type == "cpu":
        # A view of the one state: copying it out and back takes as long as the arithmetic.
        rows = slice(int(slots), int(slots) + 1)
    window = torch.cat((cache.conv[rows], qkv.unsqueeze(-1)), dim=-1)  # [B, C, kernel size]
    cache.conv[rows] = window[..., 1:]
    mixed = functional.silu((window.float() * conv_weight).sum(-1))
    q, k, v = _split_heads(mixed, cache.recurrent)
    state = cache.recurrent[rows]
    output = recurrent_gated_delta(q, k, v, g, beta, state)
    if isinstance(rows, Tensor):
        cache.recurrent[rows] = state
    return output


def _convolve(x: Tensor, weight: Tensor, history: Tensor) -> Tensor:
    """x [T, C] and the inputs before it, history [C, kernel size - 1], which is brought up to
    date -> silu of the causal convolution of each channel [T, C] float32."""
    x = torch.cat((history.T, x))
    num_tokens = len(x) - history.shape[1]
    history.copy_(x[num_tokens:].T)
    x = x.float()
    mixed = x[:num_tokens] * weight[:, 0]
    for tap in range(1, weight.shape[1]):
        mixed.addcmul_(x[tap : tap + num_tokens], weight[:, tap])
    return functional.silu(mixed)


def _split_heads(mixed: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[T, C] -> q, k [T, Hv, dk] of unit length, q scaled as for attention, and v [T, Hv, dv].

    `state` [..., Hv, dk, dv] tells the sizes.
    """
    num_heads, key_dim, value_dim = state.shape[-3:]
    num_values = num_heads * value_dim
    num_keys = (mixed.shape[-1] - num_values) // 2
    q, k, v = torch.split(mixed, [num_keys, num_keys, num_values], dim=-1)
    q, k = (_unit(part.reshape(len(mixed), num_keys // key_dim, key_dim)) for part in (q, k))
    served = num_heads * key_dim // num_keys
    q, k = (part.repeat_interleave(served, dim=1) for part in (q * key_dim**-0.5, k))
    return q, k, v.reshape(len(mixed), num_heads, value_dim)


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + _UNIT_EPS).rsqrt()


def recurrent_gated_delta(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> Tensor:
    """One token of each of B sequences: q, k [B, H, dk], v [B, H, dv], g, beta [B, H] and `state`
    [B, H, dk, dv], which is brought up to date -> [B, H, dv]."""
    state *= g.exp()[..., None, None]
    held = (k.unsqueeze(-2) @ state).squeeze(-2)
    written = (v - held) * beta.unsqueeze(-1)
    state.addcmul_(k.unsqueeze(-1), written.unsqueeze(-2))
    return (q.unsqueeze(-2) @ state).squeeze(-2)


def chunked_gated_delta(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> Tensor:
    """T tokens of one sequence: q, k [T, H, dk], v [T, H, dv], g, beta [T, H] and `state`
    [H, dk, dv], which is brought up to date -> [T, H, dv].

    Within a chunk, what the tokens write depends on one another by a triangular system, which is
    solved for the values as written and for what is taken out of the state before the chunk
    (the WY representation of Yang et al., 2024, "Parallelizing linear transformers with the
    delta rule over sequence length"). Equal to `recurrent_gated_delta` token by token.
    """
    num_tokens, size = len(q), min(CHUNK_SIZE, len(q))

    def chunks(x: Tensor) -> Tensor:
        """[T, H, ...] -> [chunks, H, size, ...]; padding neither fades nor writes."""
        padded = functional.pad(x, (0, 0) * (x.dim() - 1) + (0, -num_tokens % size))
        return padded.view(-1, size, *x.shape[1:]).transpose(1, 2).contiguous()

    q, k, v, g, beta = chunks(q), chunks(k), chunks(v), chunks(g), chunks(beta).unsqueeze(-1)
    faded = g.cumsum(-1)  # since the chunk began
    later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    # Masked before the exponential: towards later tokens it would overflow.
    between = (faded.unsqueeze(-1) - faded.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    since_start = faded.exp().unsqueeze(-1)
    until_end = (faded[..., -1:] - faded).exp().unsqueeze(-1)

    system = (beta * k) @ k.mT * between
    wanted = torch.cat((beta * v, beta * k * since_start), dim=-1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    values, taken = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    scores = q @ k.mT * between
    q, k = q * since_start, k * until_end
    output = torch.empty_like(v)
    for i in range(len(q)):
        written = values[i] - taken[i] @ state
        output[i] = torch.baddbmm(q[i] @ state, scores[i], written)
        state *= since_start[i, :, -1:]
        state.baddbmm_(k[i].mT, written)
    return output.transpose(1, 2).flatten(0, 1)[:num_tokens]
