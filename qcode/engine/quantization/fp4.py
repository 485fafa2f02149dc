"""Matrices of four-bit floats (E2M1) with a scale for each short group: NVFP4 and MXFP4.

E2M1 and the scales of MXFP4 are those of the OCP Microscaling specification 1.0. NVFP4 has E4M3
scales and one more for the whole matrix; compressed-tensors divides by it, ModelOpt multiplies.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from qcode.engine.quantization.block_grid import BlockGrid
from qcode.engine.quantization.codebook import byte_table, decode_bytes
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_NVFP4_GROUP = 16
_MXFP4_GROUP = 32
_BYTES = frozenset({torch.uint8})
_E4M3 = frozenset({torch.float8_e4m3fn})
_E8M0 = frozenset({torch.uint8, torch.float8_e8m0fnu})
_FLOAT32 = frozenset({torch.float32})
_ONE_NUMBER = ((), (1,), (1, 1))


class Fp4Weight(DecodedWeight):
    """W = E2M1 code * scale of its group * scale of the matrix."""

    __slots__ = ("_codes", "_multiplier", "_scales", "_table")

    def __init__(self, codes: Tensor, scales: Tensor, group_size: int, multiplier: float) -> None:
        """codes [out, in / 2] uint8, the low bits first; scales [out, in / group_size]."""
        super().__init__((codes.shape[0], 2 * codes.shape[1]), (codes, scales))
        self._codes = codes
        self._scales = BlockGrid(scales, (1, group_size))
        self._multiplier = multiplier
        self._table = _e2m1_table(codes.device)

    def decode(self, rows: slice | Tensor) -> Tensor:
        values = decode_bytes(self._codes[rows], self._table)
        self._scales.multiply_(values, rows)
        return values if self._multiplier == 1 else values.mul_(self._multiplier)


@cache
def _e2m1_table(device: torch.device) -> Tensor:
    return byte_table(torch.tensor([*_E2M1, *(-value for value in _E2M1)], device=device))


def nvfp4_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> Fp4Weight:
    """A module of compressed-tensors ("weight_packed") or ModelOpt ("weight").

    Raises CheckpointError, UnsupportedModel.
    """
    divides = "weight_packed" in module
    codes, scale = (
        ("weight_packed", "weight_global_scale") if divides else ("weight", "weight_scale_2")
    )
    module.check_only(frozenset({codes, "weight_scale", scale}))
    multiplier = float(module.require(scale, _FLOAT32, *_ONE_NUMBER).read().reshape(()))
    if not math.isfinite(multiplier) or (divides and multiplier == 0):
        module.fail(scale, f"is {multiplier}, which cannot be the scale of a matrix")
    return _fp4_weight(
        module, codes, shape, scheme, _NVFP4_GROUP, _E4M3, 1 / multiplier if divides else multiplier
    )


def mxfp4_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> Fp4Weight:
    """A module of compressed-tensors. Raises CheckpointError, UnsupportedModel."""
    module.check_only(frozenset({"weight_packed", "weight_scale"}))
    return _fp4_weight(module, "weight_packed", shape, scheme, _MXFP4_GROUP, _E8M0, 1.0)


def _fp4_weight(
    module: StoredModule,
    codes: str,
    shape: tuple[int, int],
    scheme: QuantizationScheme,
    group_size: int,
    scale_dtypes: frozenset[torch.dtype],
    multiplier: float,
) -> Fp4Weight:
    out_features, in_features = shape
    if in_features % group_size:
        module.fail(codes, f"cannot hold rows of {in_features} values in groups of {group_size}")
    if scheme.group_sizes and group_size not in scheme.group_sizes:
        given = " or ".join(map(str, sorted(scheme.group_sizes)))
        module.fail(codes, f"has groups of {group_size}, the configuration says {given}")
    module.require(codes, _BYTES, (out_features, in_features // 2))
    scales = module.read("weight_scale", scale_dtypes, (out_features, in_features // group_size))
    return Fp4Weight(module.read(codes, _BYTES), scales, group_size, multiplier)
