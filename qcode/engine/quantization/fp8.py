"""Eight-bit floating-point numbers: their values, and rounding a matrix to them.

E4M3 (finite, one NaN) and E5M2 are the formats of "FP8 Formats for Deep Learning" (Micikevicius
et al., 2022); E8M0, a power of two, is the scale format of the OCP Microscaling specification 1.0.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

E4M3_MAX = 448.0

FP8_DTYPES = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu})


@cache
def _values(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[256] float32: what each byte means."""
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    return codes.view(dtype).float()


def decode_fp8(stored: Tensor) -> Tensor:
    """A tensor of any float8 dtype -> float32 of the same shape, exactly."""
    # A table is ten times faster than torch's own conversion, which has no vector form on CPUs.
    table = _values(stored.dtype, stored.device)
    codes = stored.contiguous().view(torch.uint8).view(-1).int()
    return table.index_select(0, codes).view(stored.shape)


def quantize_fp8_blocks(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Round a matrix to E4M3 with one scale for each block, as `weight_scale_inv` files hold it.

    `weight` is float32 [out, in]; `block` is (rows, columns), and blocks at the edges may be
    partial. Returns the E4M3 matrix [out, in] and its scales, float32
    [ceil(out / rows), ceil(in / columns)]: value = stored * scale. The largest value of a block
    becomes 448. Raises ValueError where a value is not finite.
    """
    out_features, in_features = weight.shape
    rows, columns = block
    below, right = -out_features % rows, -in_features % columns
    padded = functional.pad(weight, (0, right, 0, below)) if below or right else weight
    blocks = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    largest = blocks.abs().amax(dim=(1, 3))
    if not largest.isfinite().all():
        raise ValueError("the matrix holds a value that is not finite")
    # A block of zeros keeps a scale of one; one so small that its scale is denormal becomes zeros.
    scales = (largest / E4M3_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    scales[largest == 0] = 1.0
    scaled = (blocks / scales[:, None, :, None]).clamp_(-E4M3_MAX, E4M3_MAX)
    stored = scaled.view(padded.shape)[:out_features, :in_features]
    return stored.to(torch.float8_e4m3fn).contiguous(), scales
