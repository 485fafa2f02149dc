"""GPTQ's zero points have one value more than their bits can count."""

from __future__ import annotations

import torch

from qcode.engine.quantization.gptq import GptqWeight


def test_a_stored_fifteen_means_sixteen() -> None:
    weight = GptqWeight(
        (8, 8),
        torch.zeros(1, 8, dtype=torch.int32),
        torch.full((1, 1), -1, dtype=torch.int32),  # all bits set
        torch.ones(1, 8, dtype=torch.float16),
        bits=4,
        groups=8,
        zero_offset=1,
    )
    assert (weight.dequantize() == -16).all()


def test_a_last_group_that_is_not_full() -> None:
    weight = GptqWeight(
        (8, 16),
        torch.zeros(2, 8, dtype=torch.int32),
        torch.zeros(2, 1, dtype=torch.int32),
        torch.tensor([[1.0], [2.0]]).expand(2, 8).contiguous(),
        bits=4,
        groups=12,
        zero_offset=1,
    )
    assert weight.dequantize()[0].tolist() == [-1] * 12 + [-2] * 4
