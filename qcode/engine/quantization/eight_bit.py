"""Matrices of eight-bit numbers, FP8 or INT8, with a scale for each block, row or the whole."""

from __future__ import annotations

import torch
from torch import Tensor

from qcode.engine.quantization.block_grid import SCALE_DTYPES, BlockGrid, block_of, scale_block
from qcode.engine.quantization.fp8 import FP8_DTYPES, decode_fp8
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

FP8_WEIGHT_DTYPES = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
INT8_WEIGHT_DTYPES = frozenset({torch.int8})
_SCALE_PARTS = ("weight_scale", "weight_scale_inv")
"""Both are multipliers, whatever the second is called."""


class EightBitWeight(DecodedWeight):
    """W = (stored - zero point) * scale."""

    __slots__ = ("_scales", "_values", "_zero_points")

    def __init__(self, values: Tensor, scales: BlockGrid, zero_points: BlockGrid | None) -> None:
        """`values` [out, in] are of a float8 dtype or int8."""
        out_features, in_features = values.shape
        offsets = zero_points.stored if zero_points else ()
        super().__init__((out_features, in_features), (values, *scales.stored, *offsets))
        self._values = values
        self._scales = scales
        self._zero_points = zero_points

    def decode(self, rows: slice | Tensor) -> Tensor:
        stored = self._values[rows]
        values = decode_fp8(stored) if stored.dtype in FP8_DTYPES else stored.float()
        if self._zero_points:
            self._zero_points.subtract_from_(values, rows)
        self._scales.multiply_(values, rows)
        return values


def eight_bit_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> EightBitWeight:
    """The matrix `shape` [out, in] of a module whose "weight" is FP8 or INT8.

    Raises CheckpointError, UnsupportedModel.
    """
    dtypes = FP8_WEIGHT_DTYPES | INT8_WEIGHT_DTYPES
    module.require("weight", dtypes, shape)
    part = next((part for part in _SCALE_PARTS if part in module), _SCALE_PARTS[0])
    module.check_only(frozenset({"weight", "weight_zero_point", part}))
    block = scale_block(module, part, shape, scheme.blocks)
    zero_points = None
    if "weight_zero_point" in module:
        scales_shape = module.parts[part].shape
        zero_points = BlockGrid(module.read("weight_zero_point", dtypes, scales_shape), block)
    scales = BlockGrid(module.read(part, SCALE_DTYPES), block)
    return EightBitWeight(module.read("weight", dtypes), scales, zero_points)


def eight_bit_name(module: StoredModule, scheme: QuantizationScheme) -> str:
    """Such as "FP8 128x128" or "INT8 channel"; a matrix with one scale is just "FP8"."""
    weight = module.parts["weight"]
    name = "INT8" if weight.dtype == torch.int8 else "FP8"
    part = next((part for part in _SCALE_PARTS if part in module), None)
    if len(weight.shape) == 3:
        module = module.expert(0, weight.shape[0])
    if part is None or len(module.parts["weight"].shape) != 2:
        return name
    out_features, in_features = module.parts["weight"].shape
    match block_of(module.parts[part], (out_features, in_features), scheme.blocks):
        case (rows, columns) if (rows, columns) == (out_features, in_features):
            return name
        case (1, columns):
            return f"{name} channel" if columns == in_features else f"{name} group {columns}"
        case (rows, columns):
            return f"{name} {rows}x{columns}"
    return name
