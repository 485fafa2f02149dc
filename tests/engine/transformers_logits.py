"""What transformers computes for a checkpoint: the measure of our own networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def reference_logits(
    directory: Path, tokens: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """[T, V] float32, after each of the tokens."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """The largest error is within `tolerance` of the largest value."""
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < tolerance
