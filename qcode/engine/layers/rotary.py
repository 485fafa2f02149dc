"""Rotary position embedding (Su et al., 2021), with YaRN scaling (Peng et al., 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcode.engine.model_config import YarnScaling


class RotaryEmbedding:
    """The angles by which queries and keys turn at each position."""

    def __init__(
        self, rotary_dim: int, theta: float, yarn: YarnScaling | None, device: torch.device
    ) -> None:
        """`rotary_dim` is the number R of dimensions of a head that are rotated."""
        frequencies = inverse_frequencies(rotary_dim, theta, yarn)
        self._frequencies = frequencies.to(device, torch.float32)
        self._magnitude = yarn.attention_factor if yarn else 1.0

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [N] int64 -> cosines and sines [N, R/2] float32.

        Always float32: at position 1,000,000 half precision cannot tell neighbours apart.
        """
        angles = torch.outer(positions.float(), self._frequencies)
        cos, sin = angles.cos(), angles.sin()
        if self._magnitude != 1.0:
            cos, sin = cos * self._magnitude, sin * self._magnitude
        return cos, sin


def inverse_frequencies(rotary_dim: int, theta: float, yarn: YarnScaling | None) -> Tensor:
    """Radians per position of each pair of dimensions: [R/2] float64.

    YaRN leaves fast pairs alone, slows pairs that turn less than `beta_slow` times in the
    original context by the whole factor, and blends in between.
    """
    pairs = torch.arange(rotary_dim // 2, dtype=torch.float64)
    plain = theta ** (-2 * pairs / rotary_dim)
    if yarn is None:
        return plain

    def pair_turning(turns: float) -> float:
        """The (fractional) pair that turns this often within the original context."""
        wavelength = yarn.original_context / (turns * 2 * math.pi)
        return rotary_dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = pair_turning(yarn.beta_fast), pair_turning(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    ramp = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain / yarn.factor * ramp
