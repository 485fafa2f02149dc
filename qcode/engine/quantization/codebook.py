"""Small codes packed into bytes, each standing for one of a few values."""

from __future__ import annotations

import torch
from torch import Tensor


def byte_table(levels: Tensor) -> Tensor:
    """levels [2^b] float32, b a divisor of 8 -> [256, 8 / b] float32.

    Row i holds what the codes in byte i mean, the one in the lowest bits first.
    """
    bits = levels.numel().bit_length() - 1
    codes = torch.arange(256, device=levels.device)[:, None]
    shifts = torch.arange(0, 8, bits, device=levels.device)
    return levels[(codes >> shifts) & (levels.numel() - 1)].contiguous()


def decode_bytes(packed: Tensor, table: Tensor) -> Tensor:
    """packed [n, bytes] of any one-byte dtype, table [256, v] -> [n, bytes * v] float32."""
    codes = packed.contiguous().view(torch.uint8).view(-1).int()
    shape = packed.shape[0], packed.shape[1] * table.shape[1]
    if table.shape[1] == 2:
        # Looking up single numbers is faster than rows, so a pair is looked up as one of 64 bits.
        pairs = table.view(torch.float64).view(-1).index_select(0, codes)
        return pairs.view(torch.float32).view(shape)
    return table.index_select(0, codes).view(shape)
