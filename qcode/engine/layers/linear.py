"""Affine projections over a weight in any storage format."""

from torch import Tensor

from qcode.engine.quantization.weight_format import Weight


class Linear:
    """`y = x W^T + b`, where `weight` decides how W is stored and multiplied."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Weight, bias: Tensor | None = None) -> None:
        """`bias` is [out] or absent."""
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out], in the dtype of `x`."""
        y = self.weight.linear(x)
        if self.bias is not None:
            y += self.bias
        return y
