"""Matrices packed by AWQ (Lin et al., 2023) in its GEMM layout.

Inputs come first: eight neighbouring output columns share a 32-bit word, in an order of their own.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

BITS = 4
_COLUMNS = 32 // BITS
_COLUMN_SHIFTS = tuple(BITS * nibble for nibble in (0, 4, 1, 5, 2, 6, 3, 7))
"""Where in its word each of eight output columns lies."""
_INT32 = frozenset({torch.int32})
_SCALES = frozenset({torch.float16, torch.bfloat16, torch.float32})


class AwqWeight(DecodedWeight):
    """W[o, i] = (q[i, o] - z[i // g, o]) * s[i // g, o]."""

    __slots__ = ("_group_size", "_qweight", "_qzeros", "_scales", "_shifts")

    def __init__(self, qweight: Tensor, qzeros: Tensor, scales: Tensor, group_size: int) -> None:
        """qweight [in, out / 8] int32, qzeros [in / g, out / 8] int32, scales [in / g, out]."""
        super().__init__((scales.shape[1], qweight.shape[0]), (qweight, qzeros, scales))
        self._qweight = qweight
        self._qzeros = qzeros
        self._scales = scales
        self._group_size = group_size
        self._shifts = _shifts(qweight.device)

    def decode(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            return self._decode_columns(rows.start, rows.stop)
        words, places = rows // _COLUMNS, rows % _COLUMNS
        shifts = self._shifts[places]
        quantised = (self._qweight.index_select(1, words) >> shifts) & 15
        zeros = (self._qzeros.index_select(1, words) >> shifts) & 15
        return self._scaled(quantised, zeros, self._scales.index_select(1, rows))

    def _decode_columns(self, start: int, stop: int) -> Tensor:
        """Output columns from `start` to `stop`, whole words at a time."""
        first, last = start // _COLUMNS, -(-stop // _COLUMNS)
        wanted = slice(start - first * _COLUMNS, stop - first * _COLUMNS)
        quantised, zeros = (
            ((words[:, first:last, None] >> self._shifts) & 15).flatten(1)[:, wanted]
            for words in (self._qweight, self._qzeros)
        )
        return self._scaled(quantised, zeros, self._scales[:, start:stop])

    def _scaled(self, quantised: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
        """[in, n], [in / g, n] twice -> [n, in] float32."""
        values = quantised.float().view(scales.shape[0], self._group_size, -1)
        values.sub_(zeros[:, None]).mul_(scales.float()[:, None])
        return values.view(quantised.shape).t()


@cache
def _shifts(device: torch.device) -> Tensor:
    return torch.tensor(_COLUMN_SHIFTS, dtype=torch.int32, device=device)


def awq_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> AwqWeight:
    """The matrix `shape` [out, in] of a module with a "qweight".

    Raises CheckpointError, UnsupportedModel.
    """
    module.check_only(frozenset({"qweight", "qzeros", "scales"}))
    out_features, in_features = shape
    group_size = max(scheme.group_sizes, default=in_features)
    if in_features % group_size or out_features % _COLUMNS:
        module.fail(
            "qweight", f"cannot hold a matrix of {list(shape)} in groups of {group_size} inputs"
        )
    words, groups = out_features // _COLUMNS, in_features // group_size
    module.require("qweight", _INT32, (in_features, words))
    module.require("qzeros", _INT32, (groups, words))
    module.require("scales", _SCALES, (groups, out_features))
    return AwqWeight(
        module.read("qweight", _INT32),
        module.read("qzeros", _INT32),
        module.read("scales", _SCALES),
        group_size,
    )
