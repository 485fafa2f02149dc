"""ggml's blocks of integers as floats, in plain torch.

A row of `in` values is cut into blocks of 32 or 256; each block holds its integers and the scales
that turn them into floats. The layouts are those of ggml's `ggml-common.h` and
`dequantize_row_*`. A decoder takes uint8 [blocks, block bytes] and gives float32 [blocks, values].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from qcode.engine.quantization.block_layouts import GgmlType

_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _half(raw: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block -> float32 [blocks, 1]."""
    return raw[:, start : start + 2].contiguous().view(torch.float16).float()


def _split_halves(packed: Tensor) -> Tensor:
    """[..., 16] bytes -> [..., 32]: all low nibbles, then all high nibbles."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _fifth_bits(raw: Tensor, start: int) -> Tensor:
    """Bit t of the 32-bit word at byte `start` as 0 or 16, for t in 0..31 -> [blocks, 32]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=raw.device)
    word = raw[:, start : start + 4, None]
    return (((word >> shifts) & 1) << 4).reshape(-1, 32)


def _q4_0(raw: Tensor) -> Tensor:
    return _half(raw, 0) * (_split_halves(raw[:, 2:]).float() - 8)


def _q4_1(raw: Tensor) -> Tensor:
    return _half(raw, 0) * _split_halves(raw[:, 4:]).float() + _half(raw, 2)


def _q5_0(raw: Tensor) -> Tensor:
    values = _split_halves(raw[:, 6:]) | _fifth_bits(raw, 2)
    return _half(raw, 0) * (values.float() - 16)


def _q5_1(raw: Tensor) -> Tensor:
    values = _split_halves(raw[:, 8:]) | _fifth_bits(raw, 4)
    return _half(raw, 0) * values.float() + _half(raw, 2)


def _q8_0(raw: Tensor) -> Tensor:
    return _half(raw, 0) * raw[:, 2:].view(torch.int8).float()


def _looked_up(table: tuple[int, ...], codes: Tensor) -> Tensor:
    """The entries of a table of 16 that 4-bit codes stand for, as float32."""
    return torch.tensor(table, dtype=torch.float32, device=codes.device)[codes.long()]


def _iq4_nl(raw: Tensor) -> Tensor:
    return _half(raw, 0) * _looked_up(_IQ4_LEVELS, _split_halves(raw[:, 2:]))


def _iq4_xs(raw: Tensor) -> Tensor:
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=raw.device)
    high = ((raw[:, 2:4, None] >> shifts) & 3).reshape(-1, 8)
    low = torch.stack((raw[:, 4:8] & 15, raw[:, 4:8] >> 4), dim=2).reshape(-1, 8)
    scale = _half(raw, 0) * ((low | (high << 4)).float() - 32)
    values = _looked_up(_IQ4_LEVELS, _split_halves(raw[:, 8:].reshape(-1, 8, 16)))
    return (scale[:, :, None] * values).flatten(1)


def _mxfp4(raw: Tensor) -> Tensor:
    # The scale is 2^(e - 127); the table holds doubled values, so half of that. The smallest two
    # are denormal floats.
    exponent = raw[:, :1].int()
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    return bits.view(torch.float32) * _looked_up(_E2M1_DOUBLED, _split_halves(raw[:, 1:]))


def _crumbs(packed: Tensor) -> Tensor:
    """[blocks, 64] -> [blocks, 16, 16]: the 2-bit fields of Q2_K and Q3_K, by group."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
    halves = packed.reshape(-1, 2, 1, 32) >> shifts[:, None]
    return (halves & 3).reshape(-1, 16, 16)


def _q2_k(raw: Tensor) -> Tensor:
    scales = raw[:, :16]
    scale = _half(raw, 80) * (scales & 15).float()
    minimum = _half(raw, 82) * (scales >> 4).float()
    values = _crumbs(raw[:, 16:80]).float()
    return (scale[:, :, None] * values - minimum[:, :, None]).flatten(1)


def _q3_k(raw: Tensor) -> Tensor:
    packed = raw[:, 96:108]
    low = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), dim=1)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=raw.device)
    high = ((packed[:, None, 8:] >> shifts[:, None]) & 3).reshape(-1, 16)
    scale = _half(raw, 108) * ((low | (high << 4)).float() - 32)
    planes = torch.arange(8, dtype=torch.uint8, device=raw.device)
    above = ((raw[:, None, :32] >> planes[:, None]) & 1).reshape(-1, 16, 16)
    values = _crumbs(raw[:, 32:96]).float() - 4 * (1 - above.float())
    return (scale[:, :, None] * values).flatten(1)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes of Q4_K and Q5_K -> (scales, minimums), each [blocks, 8] uint8."""
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((a & 63, (c & 15) | ((a >> 6) << 4)), dim=1)
    minimums = torch.cat((b & 63, (c >> 4) | ((b >> 6) << 4)), dim=1)
    return scales, minimums


def _nibble_groups(packed: Tensor) -> Tensor:
    """[blocks, 128] -> [blocks, 8, 32]: even groups low nibbles, odd groups high ones."""
    pairs = packed.reshape(-1, 4, 32)
    return torch.stack((pairs & 15, pairs >> 4), dim=2).reshape(-1, 8, 32)


def _scaled_groups(raw: Tensor, values: Tensor) -> Tensor:
    """Apply the scales of a Q4_K or Q5_K block to its `values` [blocks, 8, 32]."""
    scales, minimums = _six_bit_scales(raw[:, 4:16])
    scale = _half(raw, 0) * scales.float()
    minimum = _half(raw, 2) * minimums.float()
    return (scale[:, :, None] * values.float() - minimum[:, :, None]).flatten(1)


def _q4_k(raw: Tensor) -> Tensor:
    return _scaled_groups(raw, _nibble_groups(raw[:, 16:]))


def _q5_k(raw: Tensor) -> Tensor:
    planes = torch.arange(8, dtype=torch.uint8, device=raw.device)
    high = ((raw[:, None, 16:48] >> planes[:, None]) & 1) << 4
    return _scaled_groups(raw, _nibble_groups(raw[:, 48:]) | high)


def _q6_k(raw: Tensor) -> Tensor:
    low = raw[:, :128].reshape(-1, 2, 64)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=raw.device)
    high = (raw[:, 128:192].reshape(-1, 2, 1, 32) >> shifts[:, None]) & 3
    nibbles = torch.cat((low & 15, low >> 4), dim=2).reshape(-1, 2, 4, 32)
    values = (nibbles | (high << 4)).reshape(-1, 16, 16).float() - 32
    scale = _half(raw, 208) * raw[:, 192:208].view(torch.int8).float()
    return (scale[:, :, None] * values).flatten(1)


DECODERS: dict[GgmlType, Callable[[Tensor], Tensor]] = {
    GgmlType.Q4_0: _q4_0,
    GgmlType.Q4_1: _q4_1,
    GgmlType.Q5_0: _q5_0,
    GgmlType.Q5_1: _q5_1,
    GgmlType.Q8_0: _q8_0,
    GgmlType.Q2_K: _q2_k,
    GgmlType.Q3_K: _q3_k,
    GgmlType.Q4_K: _q4_k,
    GgmlType.Q5_K: _q5_k,
    GgmlType.Q6_K: _q6_k,
    GgmlType.IQ4_NL: _iq4_nl,
    GgmlType.IQ4_XS: _iq4_xs,
    GgmlType.MXFP4: _mxfp4,
}
