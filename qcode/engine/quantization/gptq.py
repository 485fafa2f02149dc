"""Matrices packed by GPTQ (Frantar et al., 2022) as AutoGPTQ stores them.

Inputs come first: neighbouring inputs of one output share a word. With act-order the columns were
quantised by falling importance, so that each input says in `g_idx` which group is its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcode.engine.quantization.bit_packing import WORD_BITS, num_words, unpack
from qcode.engine.quantization.block_grid import group_index
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

WIDTHS = frozenset({2, 3, 4, 8})
_INT32 = frozenset({torch.int32})
_SCALES = frozenset({torch.float16, torch.bfloat16, torch.float32})


class GptqWeight(DecodedWeight):
    """W[o, i] = (q[i, o] - z[g_idx[i], o]) * s[g_idx[i], o]."""

    __slots__ = ("_bits", "_g_idx", "_inputs", "_qweight", "_qzeros", "_scales", "_zero_offset")

    def __init__(
        self,
        qweight: Tensor,
        qzeros: Tensor,
        scales: Tensor,
        g_idx: Tensor,
        *,
        bits: int,
        zero_offset: int,
    ) -> None:
        """qweight [W, out] int32, qzeros [groups, V] int32, scales [groups, out], g_idx [in].

        A zero point is what `qzeros` holds plus `zero_offset`.
        """
        shape = (scales.shape[1], g_idx.shape[0])
        super().__init__(shape, (qweight, qzeros, scales, g_idx))
        self._qweight = qweight
        self._qzeros = qzeros
        self._scales = scales
        self._g_idx = g_idx
        self._bits = bits
        self._zero_offset = zero_offset
        self._inputs = torch.arange(shape[1], device=qweight.device)

    def decode(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            qweight, scales = self._qweight[:, rows], self._scales[:, rows]
            rows = torch.arange(rows.start, rows.stop, device=qweight.device)
        else:
            qweight = self._qweight.index_select(1, rows)
            scales = self._scales.index_select(1, rows)
        zeros = unpack(self._qzeros, self._bits, rows, dim=1) + self._zero_offset  # [groups, n]
        values = unpack(qweight, self._bits, self._inputs, dim=0).float()  # [in, n]
        values.sub_(zeros.index_select(0, self._g_idx))
        values.mul_(scales.float().index_select(0, self._g_idx))
        return values.t()


def gptq_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> GptqWeight:
    """The matrix `shape` [out, in] of a module with a "qweight".

    Raises CheckpointError, UnsupportedModel.
    """
    module.check_only(frozenset({"qweight", "qzeros", "scales", "g_idx"}))
    out_features, in_features = shape
    bits = _num_bits(module, shape, scheme)
    group_size = _group_size(module, in_features, scheme)
    num_groups = -(-in_features // group_size)
    module.require("qzeros", _INT32, (num_groups, num_words(out_features, bits)))
    module.require("scales", _SCALES, (num_groups, out_features))
    if "g_idx" in module:
        g_idx = group_index(module, "g_idx", in_features, num_groups)
    else:
        if scheme.reordered:
            module.require("g_idx", _INT32)
        g_idx = torch.arange(in_features, dtype=torch.int32, device=module.device) // group_size
    return GptqWeight(
        module.read("qweight", _INT32),
        module.read("qzeros", _INT32),
        module.read("scales", _SCALES),
        g_idx,
        bits=bits,
        zero_offset=_zero_offset(module, bits, scheme),
    )


def _num_bits(module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme) -> int:
    out_features, in_features = shape
    stored = module.require("qweight", _INT32)
    possible = [
        bits
        for bits in scheme.num_bits
        if stored.shape == (num_words(in_features, bits), out_features)
    ]
    if len(possible) != 1 or in_features * possible[0] % WORD_BITS:
        given = " or ".join(map(str, sorted(scheme.num_bits)))
        module.fail(
            "qweight",
            f"is {list(stored.shape)}, which cannot be a matrix of {list(shape)} in the {given} "
            "bits the configuration gives",
        )
    return possible[0]


def _group_size(module: StoredModule, in_features: int, scheme: QuantizationScheme) -> int:
    """The configured size that gives as many groups as there are scales; the whole row if none."""
    stored = module.require("scales", _SCALES).shape
    sizes = sorted(scheme.group_sizes) or [in_features]
    fitting = [size for size in sizes if stored[:1] == (-(-in_features // size),)]
    if not fitting:
        given = " or ".join(map(str, sizes))
        module.fail(
            "scales",
            f"is {list(stored)}, which does not fit {in_features} inputs in groups of {given}",
        )
    return fitting[0]


def _zero_offset(module: StoredModule, bits: int, scheme: QuantizationScheme) -> int:
    """Some files are not of the version they claim; symmetric ones betray it.

    Their zero points are all the middle of the range, stored as it is or less one.
    """
    declared = int(scheme.zeros_minus_one)
    if not scheme.symmetric:
        return declared
    qzeros = module.require("qzeros", _INT32).read()
    first = int(unpack(qzeros[:1, :bits], bits, torch.zeros(1, dtype=torch.int64), dim=1))
    middle = 1 << (bits - 1)
    if middle - first not in (0, 1):
        module.fail("qzeros", f"begins with {first}, not the zero point of symmetric weights")
    return middle - first
