"""Matrices packed by GPTQ (Frantar et al., 2022) as AutoGPTQ stores them.

Inputs come first: neighbouring inputs of one output share a word. With act-order the columns were
quantised by falling importance, so that each input says in `g_idx` which group is its own.
Elsewhere `g_idx` holds what everybody knows, and is not read.

W[o, i] = (q[i, o] - z[g_idx[i], o]) * s[g_idx[i], o]
"""

from __future__ import annotations

from dataclasses import replace

import torch

from qcode.engine.quantization.bit_packing import WORD_BITS, num_words, unpack
from qcode.engine.quantization.block_grid import INDEX_DTYPES, BlockGrid, PackedGrid, group_index
from qcode.engine.quantization.packed_integers import PackedIntegerWeight
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule

WIDTHS = frozenset({2, 3, 4, 8})
_INT32 = frozenset({torch.int32})
_SCALES = frozenset({torch.float16, torch.bfloat16, torch.float32})


def gptq_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> PackedIntegerWeight:
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
    block = 1, group_size
    columns = group_index(module, "g_idx", in_features, num_groups) if scheme.reordered else None
    offset = int(scheme.zeros_minus_one) - (1 << (bits - 1))
    zero_words = module.read("qzeros", _INT32).t()
    return PackedIntegerWeight(
        module.read("qweight", _INT32).t(),
        bits,
        shape,
        scales=BlockGrid(module.read("scales", _SCALES).t(), block, columns),
        zero_points=PackedGrid(zero_words, block, columns, bits=bits, offset=offset),
    )


def scheme_as_stored(module: StoredModule, scheme: QuantizationScheme) -> QuantizationScheme:
    """`scheme`, corrected by what one of the checkpoint's modules shows.

    Some files are not of the version they claim. Symmetric ones betray it, since their zero points
    are all the middle of the range, stored as it is or less one. And where columns were reordered,
    `g_idx` does not just count. Raises CheckpointError.
    """
    if scheme.symmetric:
        bits = min(scheme.num_bits)
        words = module.require("qzeros", _INT32).read().reshape(1, -1)[:, :bits]
        first = int(unpack(words, bits, torch.zeros(1, dtype=torch.int64), dim=1))
        middle = 1 << (bits - 1)
        if first not in (middle - 1, middle):
            module.fail("qzeros", f"begins with {first}, not the zero point of symmetric weights")
        scheme = replace(scheme, zeros_minus_one=first == middle - 1)
    if "g_idx" in module and not scheme.reordered:
        index = module.require("g_idx", INDEX_DTYPES).read().long()
        group_size = _group_size(module, len(index), scheme)
        counted = torch.arange(len(index)) // group_size
        scheme = replace(scheme, reordered=not torch.equal(index, counted))
    return scheme


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
