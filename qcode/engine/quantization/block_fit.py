"""Scales of quantised groups, chosen to minimise the squared error of what they decode to.

Rounding to the grid that just spans a group is not the best one can do: a slightly finer grid
clips the extremes and is closer elsewhere. Each function tries a few grids; for the integers that
a grid gives, the best scale (and minimum) follows by linear least squares. Groups stand in
columns, so that sums over a group add whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPANS = (-1.2, -0.7, -0.2, 0.3)
"""Grids tried for affine groups: how many steps more than `levels` the range of a group takes."""

PEAKS = (-1.0, -0.4, 0.2, 0.7)
"""Grids tried for symmetric groups: how many steps beyond the lowest level the largest value is."""

_TINY = 1e-30
"""Added to ranges before dividing by them: a group of equal values has none."""


def fit_affine(x: Tensor, levels: int, spans: Sequence[float] = SPANS) -> tuple[Tensor, Tensor]:
    """x [group size, groups] float32 -> (scale, minimum) [groups], for integers 0..levels.

    `scale * q + minimum` approximates x; scale is never negative, minimum never positive.
    """
    low, high = torch.aminmax(x, dim=0)
    low = low.clamp_(max=0)
    extent = (high - low).clamp_(min=_TINY)
    fit = _AffineFit(x, extent / levels, low)
    for span in spans:
        fit.improve((levels + span) / extent, low, levels)
    fit.improve(inverse(fit.scale), fit.minimum, levels)
    return fit.scale, fit.minimum


class _AffineFit:
    """The best scale and minimum of each group so far."""

    def __init__(self, x: Tensor, scale: Tensor, minimum: Tensor) -> None:
        self.scale = scale
        self.minimum = minimum
        self._x = x
        self._sum_x = x.sum(0)
        self._error = torch.full_like(scale, torch.inf)
        self._q = torch.empty_like(x)
        self._product = torch.empty_like(x)

    def improve(self, inverse_scale: Tensor, minimum: Tensor, levels: int) -> None:
        """Take the integers of this grid where their own best scale and minimum do better."""
        q = round_to_grid(self._x, minimum, inverse_scale, levels, out=self._q)
        count = len(q)
        sum_q = q.sum(0)
        sum_qx = torch.mul(q, self._x, out=self._product).sum(0)
        sum_qq = torch.mul(q, q, out=self._product).sum(0)
        # The normal equations of x = scale * q + minimum; exact integers up to 2^24.
        determinant = count * sum_qq - sum_q * sum_q
        scale = (count * sum_qx - self._sum_x * sum_q) / determinant
        minimum = (sum_qq * self._sum_x - sum_q * sum_qx) / determinant
        scale = torch.where(minimum > 0, sum_qx / sum_qq, scale)
        minimum = minimum.clamp_(max=0)
        # Without the sum of x squared, which all grids share.
        error = scale * (scale * sum_qq - 2 * sum_qx + 2 * minimum * sum_q)
        error += minimum * (count * minimum - 2 * self._sum_x)
        better = (error < self._error) & (determinant > 0)
        self._error = torch.where(better, error, self._error)
        self.scale = torch.where(better, scale, self.scale)
        self.minimum = torch.where(better, minimum, self.minimum)


def fit_symmetric(x: Tensor, levels: int, peaks: Sequence[float] = PEAKS) -> Tensor:
    """x [group size, groups] float32 -> scale [groups], for integers -levels..levels - 1.

    The scale has the sign that puts the largest value on the side that reaches further.
    """
    low, high = torch.aminmax(x, dim=0)
    peak = torch.where(-low > high, low, high)
    scale = peak / -levels
    gain = torch.full_like(scale, -torch.inf)
    q, product = torch.empty_like(x), torch.empty_like(x)
    for steps in peaks:
        torch.mul(x, inverse(peak) * -(levels + steps), out=q)
        q.round_().clamp_(-levels, levels - 1)
        sum_qx = torch.mul(q, x, out=product).sum(0)
        sum_qq = torch.mul(q, q, out=product).sum(0)
        # The best scale for these integers lowers the squared error by `lowers`.
        best = sum_qx * inverse(sum_qq)
        lowers = sum_qx * best
        better = lowers > gain
        scale = torch.where(better, best, scale)
        gain = torch.where(better, lowers, gain)
    return scale


def round_to_grid(
    x: Tensor, minimum: Tensor, inverse_scale: Tensor, levels: int, *, out: Tensor | None = None
) -> Tensor:
    """The nearest integers in 0..levels, as floats of the shape of x [group size, groups]."""
    q = torch.sub(x, minimum, out=out)
    return q.mul_(inverse_scale).round_().clamp_(0, levels)


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that has no finite value."""
    return scale.reciprocal().nan_to_num_(0.0, 0.0, 0.0)
