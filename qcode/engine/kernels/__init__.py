"""Fast paths for the inner loops of the models, each beside its plain torch definition.

The functions here have the signatures and meaning of those in `kernels.reference`. Each runs as
compiled code where that is installed and the tensors are float32 on the CPU.
"""

import torch
from torch import Tensor

from qcode.engine.kernels import reference
from qcode.engine.kernels.library import CACHE_FORMATS, KernelLibrary, installed

__all__ = [
    "apply_rotary",
    "gated_delta_step",
    "paged_attention",
    "rms_norm",
    "silu_and_mul",
    "write_cache",
]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: x [T, D], weight [D] -> [T, D]."""
    library = _library_for(x, weight)
    if library:
        return library.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """The SwiGLU product silu(gate) * up, elementwise."""
    library = _library_for(gate, up)
    if library:
        return library.silu_and_mul(gate, up)
    return reference.silu_and_mul(gate, up)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, H, D] by the angles in cos, sin [T, R/2]; dimensions from R on pass through."""
    library = _library_for(x, cos, sin)
    if library:
        return library.apply_rotary(x, cos, sin)
    return reference.apply_rotary(x, cos, sin)


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
    """Causal attention over cached keys and values; see `reference.paged_attention`."""
    inputs = (q, k_cache, v_cache, block_tables, query_starts, context_lens)
    library = _library_for(q)
    if library and _is_readable(k_cache) and _is_readable(v_cache):
        return library.paged_attention(*inputs, scale, k_scales, v_scales, key_channels)
    return reference.paged_attention(*inputs, scale, k_scales, v_scales, key_channels)


def gated_delta_step(
    qkv: Tensor,
    g: Tensor,
    beta: Tensor,
    conv_weight: Tensor,
    conv: Tensor,
    recurrent: Tensor,
    slots: Tensor,
) -> Tensor | None:
    """One token of B sequences through a Gated DeltaNet layer -> [B, Hv, dv], where that is
    compiled; else None, with nothing changed. See `layers.gated_delta`."""
    tensors = (qkv, g, beta, conv_weight, conv, recurrent)
    library = _library_for(*tensors)
    if library and conv.is_contiguous() and recurrent.is_contiguous():
        return library.gated_delta_step(*tensors, slots)
    return None


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
    inputs = (k, v, slots, k_cache, v_cache, k_scales, v_scales, key_channels)
    library = _library_for(k, v)
    if library and _is_readable(k_cache) and _is_readable(v_cache):
        return library.write_cache(*inputs)
    return reference.write_cache(*inputs)


def _is_readable(cache: Tensor) -> bool:
    """Whether the compiled kernels read and write caches such as this one."""
    return cache.dtype in CACHE_FORMATS and cache.shape[3] % 16 == 0 and cache.is_contiguous()


def _library_for(*tensors: Tensor) -> KernelLibrary | None:
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return None
    return installed()
