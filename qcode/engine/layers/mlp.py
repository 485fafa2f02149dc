"""The feed-forward network of the family, also the form of an expert."""

from __future__ import annotations

from torch import Tensor

from qcode.engine import kernels
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.projections import Projections
from qcode.engine.quantization.weight_format import Weight


class GatedMLP:
    """The SwiGLU network (Shazeer, 2020): down(silu(gate(x)) * up(x))."""

    __slots__ = ("down_proj", "gate_up_proj")

    def __init__(self, gate_proj: Weight, up_proj: Weight, down_proj: Weight) -> None:
        """`gate_proj` and `up_proj` are [I, D], `down_proj` is [D, I]."""
        self.gate_up_proj = Projections([gate_proj, up_proj])
        self.down_proj = Linear(down_proj)

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] -> [T, D]."""
        gate, up = self.gate_up_proj(x)
        return self.down_proj(kernels.silu_and_mul(gate, up))
