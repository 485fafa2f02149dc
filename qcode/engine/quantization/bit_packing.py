"""Unsigned integers of 1 to 8 bits packed into 32-bit words, the lowest bits first.

Widths that do not divide 32 leave no gaps: a value may begin in one word and end in the next.
"""

from __future__ import annotations

from torch import Tensor

WORD_BITS = 32


def num_words(count: int, bits: int) -> int:
    """Words that `count` values take."""
    return -(-count * bits // WORD_BITS)


def unpack(words: Tensor, bits: int, positions: Tensor, dim: int) -> Tensor:
    """The values at `positions` [n] int64 along axis `dim` of a matrix packed along it.

    words [W, m] int32 with dim 0 -> [n, m] int32; words [m, W] with dim 1 -> [m, n].
    """
    bit = positions * bits
    word, shift = bit // WORD_BITS, (bit % WORD_BITS).int()
    shift = shift[:, None] if dim == 0 else shift
    mask = (1 << bits) - 1
    if WORD_BITS % bits == 0:
        return (words.index_select(dim, word) >> shift) & mask
    following = (word + 1).clamp_(max=words.shape[dim] - 1)
    low = words.index_select(dim, word).long() & 0xFFFFFFFF
    high = words.index_select(dim, following).long() << WORD_BITS
    return (((low | high) >> shift) & mask).int()
