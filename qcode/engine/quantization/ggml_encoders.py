"""Floats into the block formats of ggml: the inverse of `ggml_decoders`.

The layouts are those of ggml's `ggml-common.h`; `block_fit` searches for the scales. An encoder
takes float32 [blocks, block values] and gives uint8 [blocks, block bytes].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qcode.engine.quantization.block_fit import fit_affine, fit_symmetric, inverse, round_to_grid
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import FLOAT_DTYPES

VALUES_AT_ONCE = 256 * 1024
"""What one step works on: few enough for the processor's cache, and enough that the time to start
an operation does not count."""


class NotEncodable(ValueError):
    """Values that a format has no code for: NaN, infinities, or larger than its largest."""


def encode(rows: Tensor, kind: GgmlType) -> Tensor:
    """rows [..., in] -> their bytes [..., row bytes] uint8; `in` must be whole blocks.

    Raises NotEncodable.
    """
    if kind in FLOAT_DTYPES:
        return _cast(rows, FLOAT_DTYPES[kind]).view(torch.uint8)
    layout = BLOCK_LAYOUTS[kind]
    blocks = rows.reshape(-1, layout.block_size)
    packed = torch.empty(len(blocks), layout.block_bytes, dtype=torch.uint8)
    step = VALUES_AT_ONCE // layout.block_size
    for values, target in zip(torch.split(blocks, step), torch.split(packed, step), strict=True):
        target.copy_(ENCODERS[kind](values.float()))
    return packed.view(*rows.shape[:-1], -1)


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    cast = values.to(dtype).contiguous()
    if not cast.isfinite().all():
        raise NotEncodable(f"NaN, infinity or more than {torch.finfo(dtype).max:g}")
    return cast


def _half_bytes(scales: Tensor) -> Tensor:
    """float32 [blocks] that are float16 numbers already -> [blocks, 2]; raises NotEncodable."""
    return _cast(scales, torch.float16).view(torch.uint8).view(-1, 2)


def _rounded_to_half(scales: Tensor) -> Tensor:
    return scales.half().float()


def _columns(blocks: Tensor, group_size: int) -> Tensor:
    """[blocks, values] -> [group size, groups], the groups of a block side by side."""
    return blocks.reshape(-1, group_size).t().contiguous()


def _rows(q: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The reverse of `_columns` for integers in floats -> uint8 of `shape`."""
    return q.to(torch.uint8).t().reshape(shape)


def _nibble_halves(q: Tensor) -> Tensor:
    """[blocks, 32] -> [blocks, 16]: the first half in the low nibbles, the second in the high."""
    return (q[:, :16] & 15) | (q[:, 16:] << 4)


def _bit_planes(bits: Tensor, dim: int) -> Tensor:
    """Bit i of each byte is entry i along `dim` of a tensor of zeros and ones."""
    shape = [1] * bits.dim()
    shape[dim] = 8
    places = torch.arange(8, dtype=torch.uint8).view(shape)
    return (bits << places).sum(dim, dtype=torch.uint8)


def _symmetric(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scales [blocks], and integers from 0 that stand for -levels.. [blocks, 32] uint8."""
    x = _columns(blocks, 32)
    scales = _rounded_to_half(fit_symmetric(x, levels))
    q = (x * inverse(scales)).round_().clamp_(-levels, levels - 1).add_(levels)
    return scales, _rows(q, (-1, 32))


def _q4_0(blocks: Tensor) -> Tensor:
    scales, q = _symmetric(blocks, 8)
    return torch.cat((_half_bytes(scales), _nibble_halves(q)), dim=1)


def _q5_0(blocks: Tensor) -> Tensor:
    scales, q = _symmetric(blocks, 16)
    fifth_bits = _bit_planes((q >> 4).view(-1, 4, 8), 2)
    return torch.cat((_half_bytes(scales), fifth_bits, _nibble_halves(q)), dim=1)


def _q5_1(blocks: Tensor) -> Tensor:
    x = _columns(blocks, 32)
    scales, minimums = map(_rounded_to_half, fit_affine(x, 31))
    q = _rows(round_to_grid(x, minimums, inverse(scales), 31), (-1, 32))
    fifth_bits = _bit_planes((q >> 4).view(-1, 4, 8), 2)
    halves = (_half_bytes(scales), _half_bytes(minimums))
    return torch.cat((*halves, fifth_bits, _nibble_halves(q)), dim=1)


def _q8_0(blocks: Tensor) -> Tensor:
    scales = _rounded_to_half(blocks.abs().amax(1) / 127)
    q = (blocks * inverse(scales)[:, None]).round_().clamp_(-127, 127)
    return torch.cat((_half_bytes(scales), q.to(torch.int8).view(torch.uint8)), dim=1)


def _affine_groups(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scales of 8 groups of 32 as in Q4_K and Q5_K [blocks, 16]; integers [blocks, 8, 32]."""
    x = _columns(blocks, 32)
    scales, minimums = fit_affine(x, levels)
    d, whole_scales = _six_bits(scales.view(-1, 8))
    d_min, whole_minimums = _six_bits(-minimums.view(-1, 8))
    scales = (d[:, None] * whole_scales).view(-1)
    minimums = (-d_min[:, None] * whole_minimums).view(-1)
    q = _rows(round_to_grid(x, minimums, inverse(scales), levels), (-1, 8, 32))
    packed = _six_bit_scales(whole_scales.to(torch.uint8), whole_minimums.to(torch.uint8))
    return torch.cat((_half_bytes(d), _half_bytes(d_min), packed), dim=1), q


def _six_bits(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Scales >= 0 [blocks, 8] -> their unit [blocks], and how many of it each is: 0 to 63."""
    unit = _rounded_to_half(scales.amax(1) / 63)
    return unit, (scales * inverse(unit)[:, None]).round_().clamp_(0, 63)


def _six_bit_scales(scales: Tensor, minimums: Tensor) -> Tensor:
    """Both [blocks, 8] -> [blocks, 12]: the top two bits of the last four are apart."""
    low, high = scales[:, :4], scales[:, 4:]
    low_minimums, high_minimums = minimums[:, :4], minimums[:, 4:]
    return torch.cat(
        (
            low | (high >> 4 << 6),
            low_minimums | (high_minimums >> 4 << 6),
            (high & 15) | (high_minimums << 4),
        ),
        dim=1,
    )


def _nibble_pairs(q: Tensor) -> Tensor:
    """[blocks, 8, 32] -> [blocks, 128]: even groups in the low nibbles, odd ones in the high."""
    return ((q[:, 0::2] & 15) | (q[:, 1::2] << 4)).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    scales, q = _affine_groups(blocks, 15)
    return torch.cat((scales, _nibble_pairs(q)), dim=1)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, q = _affine_groups(blocks, 31)
    return torch.cat((scales, _bit_planes(q >> 4, 1), _nibble_pairs(q)), dim=1)


def _q6_k(blocks: Tensor) -> Tensor:
    x = _columns(blocks, 16)
    scales = fit_symmetric(x, 32).view(-1, 16)
    low, high = torch.aminmax(scales, dim=1)
    d = _rounded_to_half(torch.where(-low > high, low, high) / -128)
    whole = (scales * inverse(d)[:, None]).round_().clamp_(-128, 127)
    scales = (d[:, None] * whole).view(-1)
    q = _rows((x * inverse(scales)).round_().clamp_(-32, 31).add_(32), (-1, 2, 4, 32))
    nibbles = (q[:, :, :2] & 15) | (q[:, :, 2:] << 4)
    top = q >> 4
    crumbs = top[:, :, 0] | top[:, :, 1] << 2 | top[:, :, 2] << 4 | top[:, :, 3] << 6
    whole_bytes = whole.to(torch.int8).view(torch.uint8)
    return torch.cat((nibbles.flatten(1), crumbs.flatten(1), whole_bytes, _half_bytes(d)), dim=1)


ENCODERS: Mapping[GgmlType, Callable[[Tensor], Tensor]] = {
    GgmlType.Q4_0: _q4_0,
    GgmlType.Q5_0: _q5_0,
    GgmlType.Q5_1: _q5_1,
    GgmlType.Q8_0: _q8_0,
    GgmlType.Q4_K: _q4_k,
    GgmlType.Q5_K: _q5_k,
    GgmlType.Q6_K: _q6_k,
}
