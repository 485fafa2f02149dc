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
        self._frequencies = inverse_frequencies(rotary_dim, theta, yarn).to(device)
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
    """Radians per position of each pair of dimensions: [R/2] float32.

    YaRN leaves fast pairs alone, slows pairs that turn less than `beta_slow` times in the
    original context by the whole factor, and blends in between.

    Computed in float32, in the order of the model's published code: at position 1,000,000 the
    last bit of a frequency turns a pair by up to 0.06 radians, and these are the frequencies the
    weights were trained with.
    """
    periods = theta ** (torch.arange(0, rotary_dim, 2).float() / rotary_dim)
    plain = 1.0 / periods
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
    ramp = (torch.arange(rotary_dim // 2).float() - low) / max(high - low, 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return 1.0 / (yarn.factor * periods) * (1 - kept) + plain * kept
