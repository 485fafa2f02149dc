"""Integers of 2 to 8 bits packed along each row: compressed-tensors' pack-quantized format.

GPTQ's weights are the same with the axes of all tensors exchanged.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from qcode.engine.quantization.bit_packing import num_words, unpack
from qcode.engine.quantization.block_grid import (
    INDEX_DTYPES,
    SCALE_DTYPES,
    Block,
    BlockGrid,
    PackedGrid,
    group_index,
    scale_block,
)
from qcode.engine.quantization.codebook import byte_table, decode_bytes
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

WIDTHS = frozenset(range(2, 9))
_INT32 = frozenset({torch.int32})
_PARTS = frozenset(
    {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"}
)


class PackedIntegerWeight(DecodedWeight):
    """W = (q - zero point) * scale, where q is stored as q + 2^(bits - 1)."""

    __slots__ = ("_bits", "_scales", "_table", "_words", "_zero_points")

    def __init__(
        self,
        words: Tensor,
        bits: int,
        shape: tuple[int, int],
        scales: BlockGrid,
        zero_points: BlockGrid | None,
    ) -> None:
        """words [out, W] int32; `shape` is [out, in]. Tensors may be transposed views."""
        offsets = zero_points.stored[:1] if zero_points else ()
        super().__init__(shape, (words, *scales.stored, *offsets))
        self._words = words
        self._bits = bits
        self._scales = scales
        self._zero_points = zero_points
        self._table = _signed_table(bits, words.device) if 8 % bits == 0 else None

    def decode(self, rows: slice | Tensor) -> Tensor:
        values = self._integers(self._words[rows])
        if self._zero_points:
            self._zero_points.subtract_from_(values, rows)
        self._scales.multiply_(values, rows)
        return values

    def _integers(self, words: Tensor) -> Tensor:
        """words [n, W] int32 -> signed values [n, in] float32."""
        in_features = self._shape[1]
        if self._table is not None:
            # The lowest bits of a word are in its first byte on every machine torch runs on.
            stored = words.reshape(-1).view(torch.uint8).view(len(words), 4 * words.shape[1])
            values = decode_bytes(stored, self._table)
            return values if values.shape[1] == in_features else values[:, :in_features].clone()
        positions = torch.arange(in_features, device=words.device)
        return unpack(words, self._bits, positions, dim=1).float() - (1 << (self._bits - 1))


@cache
def _signed_table(bits: int, device: torch.device) -> Tensor:
    return byte_table(torch.arange(2**bits, device=device) - 2.0 ** (bits - 1))


def packed_integer_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> PackedIntegerWeight:
    """The matrix `shape` [out, in] of a module whose "weight_packed" is int32.

    Raises CheckpointError, UnsupportedModel.
    """
    module.check_only(_PARTS)
    bits = _num_bits(module, shape, scheme)
    _check_stored_shape(module, shape)
    block = scale_block(module, "weight_scale", shape, scheme.blocks)
    num_groups = -(-shape[1] // block[1])
    columns = (
        group_index(module, "weight_g_idx", shape[1], num_groups)
        if "weight_g_idx" in module
        else None
    )
    zero_points = (
        _zero_points(module, bits, (shape[0], num_groups), block, columns)
        if "weight_zero_point" in module
        else None
    )
    scales = BlockGrid(module.read("weight_scale", SCALE_DTYPES), block, columns)
    words = module.read("weight_packed", _INT32)
    return PackedIntegerWeight(words, bits, shape, scales, zero_points)


def _num_bits(module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme) -> int:
    """Read off the words in a row: with few columns several widths take the same."""
    stored = module.require("weight_packed", _INT32)
    possible = [
        bits
        for bits in scheme.num_bits or WIDTHS
        if stored.shape == (shape[0], num_words(shape[1], bits))
    ]
    if len(possible) != 1:
        given = " or ".join(map(str, sorted(scheme.num_bits))) or "no number of"
        module.fail(
            "weight_packed",
            f"is {list(stored.shape)}, the network needs {list(shape)} packed with one width "
            f"(the configuration gives {given} bits)",
        )
    return possible[0]


def _check_stored_shape(module: StoredModule, shape: tuple[int, int]) -> None:
    if "weight_shape" not in module:
        return
    stored = tuple(module.require("weight_shape", INDEX_DTYPES, (2,)).read().tolist())
    if stored != shape:
        module.fail("weight_shape", f"says {list(stored)}, the network needs {list(shape)}")


def _zero_points(
    module: StoredModule, bits: int, grid: tuple[int, int], block: Block, columns: Tensor | None
) -> BlockGrid:
    """Packed down the columns of `grid` [out, groups], or as signed bytes by older writers."""
    stored = module.require("weight_zero_point", _INT32 | {torch.int8})
    if stored.dtype == torch.int8:
        numbers = module.read("weight_zero_point", frozenset({torch.int8}), grid)
        return BlockGrid(numbers, block, columns)
    words = module.read("weight_zero_point", _INT32, (num_words(grid[0], bits), grid[1]))
    return PackedGrid(words, block, columns, bits=bits, offset=-(1 << (bits - 1)))


def integer_name(prefix: str, scheme: QuantizationScheme) -> str:
    """`prefix`, the widths and the group sizes of the configuration: "INT4 group 128"."""
    bits = "/".join(map(str, sorted(scheme.num_bits)))
    groups = "/".join(map(str, sorted(scheme.group_sizes)))
    return f"{prefix}{bits} group {groups}" if groups else f"{prefix}{bits} channel"
