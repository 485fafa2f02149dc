"""Weights in the block formats of ggml, as GGUF files hold them.

A row of `in` values is cut into blocks of 32 or 256; each block holds its integers and the scales
that turn them into floats. The layouts are those of ggml's `ggml-common.h` and
`dequantize_row_*`. Everything here is plain torch; `qcode.engine.kernels` has the fast forms.
"""

from collections.abc import Callable
from enum import IntEnum
from math import prod

import torch
from torch import Tensor

from qcode.engine.kernels.library import installed
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS
from qcode.engine.quantization.weight_format import DenseWeight, Weight, linear_by_row_chunks
from qcode.protocol.errors import UnsupportedModel


class GgmlType(IntEnum):
    """Type ids in a GGUF tensor table that we can read."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    BF16 = 30


FLOAT_DTYPES: dict[GgmlType, torch.dtype] = {
    GgmlType.F32: torch.float32,
    GgmlType.F16: torch.float16,
    GgmlType.BF16: torch.bfloat16,
}

_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def checked_type(type_id: int) -> GgmlType:
    """The type with this id. Raises UnsupportedModel for one we cannot read."""
    try:
        return GgmlType(type_id)
    except ValueError as error:
        readable = ", ".join(known.name for known in GgmlType)
        raise UnsupportedModel(
            f"the GGUF file holds tensors of ggml type {type_id}, which qcode cannot read",
            hint=f"Use a file quantised with one of: {readable}.",
        ) from error


def tensor_bytes(ggml_type: int, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes; `shape` has the contiguous axis last.

    Raises UnsupportedModel for an unknown type or a last axis that is not whole blocks.
    """
    block = BLOCK_LAYOUTS[checked_type(ggml_type)]
    if shape[-1] % block.block_size:
        raise UnsupportedModel(
            f"a tensor row of {shape[-1]} values is not a multiple of {block.block_size}"
        )
    return prod(shape) // block.block_size * block.block_bytes


def dequantize(raw: Tensor, ggml_type: int, shape: tuple[int, ...]) -> Tensor:
    """`raw` uint8 (any shape, in file order) -> float32 tensor of `shape`."""
    kind = checked_type(ggml_type)
    block = BLOCK_LAYOUTS[kind]
    if kind in FLOAT_DTYPES:
        return raw.reshape(-1).view(FLOAT_DTYPES[kind]).reshape(shape).float()
    return _DECODERS[kind](raw.reshape(-1, block.block_bytes)).reshape(shape)


class GgmlWeight:
    """A matrix kept as the bytes of the file; every product dequantises it again."""

    __slots__ = ("_bytes", "_shape", "_type")

    def __init__(self, raw: Tensor, ggml_type: int, shape: tuple[int, int]) -> None:
        """`raw` holds the uint8 bytes of `shape` [out, in]; it is kept, not copied."""
        self._type = checked_type(ggml_type)
        self._shape = shape
        self._bytes = raw.reshape(shape[0], tensor_bytes(ggml_type, (1, shape[1])))

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def num_bytes(self) -> int:
        return self._bytes.nbytes

    def linear(self, x: Tensor) -> Tensor:
        return linear_by_row_chunks(x, self._shape, self._float_rows)

    def rows(self, ids: Tensor) -> Tensor:
        return dequantize(self._bytes[ids], self._type, (ids.shape[0], self._shape[1]))

    def dequantize(self) -> Tensor:
        return dequantize(self._bytes, self._type, self._shape)

    def _float_rows(self, start: int, stop: int) -> Tensor:
        return dequantize(self._bytes[start:stop], self._type, (stop - start, self._shape[1]))


def ggml_weight(raw: Tensor, ggml_type: int, shape: tuple[int, int]) -> Weight:
    """The fastest weight this machine has for these bytes.

    `raw` uint8 holds a matrix `shape` [out, in]. Float types become a `DenseWeight` that shares
    memory with `raw`; a `PackedWeight` copies it, so its pages may be dropped afterwards.
    """
    kind = checked_type(ggml_type)
    if kind in FLOAT_DTYPES:
        return DenseWeight(raw.reshape(-1).view(FLOAT_DTYPES[kind]).reshape(shape))
    library = installed() if raw.device.type == "cpu" else None
    if library and library.packed_bytes(kind, shape):
        return PackedWeight(library, raw, kind, shape)
    return GgmlWeight(raw, kind, shape)


def expert_weights(raw: Tensor, ggml_type: int, shape: tuple[int, int, int]) -> list[Weight]:
    """One weight per expert from a stacked tensor `shape` [experts, out, in]."""
    experts, out_features, in_features = shape
    stacked = raw.reshape(experts, tensor_bytes(ggml_type, (out_features, in_features)))
    return [ggml_weight(expert, ggml_type, (out_features, in_features)) for expert in stacked]


# Decoders: uint8 [blocks, block bytes] -> float32 [blocks, block values].


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


def _iq4_nl(raw: Tensor) -> Tensor:
    levels = torch.tensor(_IQ4_LEVELS, dtype=torch.float32, device=raw.device)
    return _half(raw, 0) * levels[_split_halves(raw[:, 2:]).long()]


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


_DECODERS: dict[GgmlType, Callable[[Tensor], Tensor]] = {
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
}
