"""Linear layers that read the same input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcode.engine.layers.linear import Linear
from qcode.engine.quantization.weight_format import DenseWeight, Weight


class Projections:
    """Several projections of one input, multiplied as one matrix where that costs no memory.

    Weights on the CPU stay apart: they are views of a mapped file, and joining would copy them.
    Dense weights on another device were copied there anyway.
    """

    __slots__ = ("_layers", "_sizes")

    def __init__(self, weights: Sequence[Weight], biases: Sequence[Tensor] = ()) -> None:
        """`weights` are [out_i, in]; `biases` are [out_i], one for each of them or none at all."""
        self._sizes = [weight.shape[0] for weight in weights]
        tensors = [weight.tensor for weight in weights if isinstance(weight, DenseWeight)]
        joins = len(tensors) == len(weights) and all(t.device.type != "cpu" for t in tensors)
        if joins and len({tensor.dtype for tensor in tensors}) == 1:
            bias = torch.cat(tuple(biases)) if biases else None
            self._layers = [Linear(DenseWeight(torch.cat(tensors)), bias)]
        elif biases:
            self._layers = [Linear(w, b) for w, b in zip(weights, biases, strict=True)]
        else:
            self._layers = [Linear(weight) for weight in weights]

    @property
    def layers(self) -> Sequence[Linear]:
        """One for each projection, or one for all where they are joined."""
        return self._layers

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """x [T, in] -> one [T, out_i] for each weight."""
        if len(self._layers) < len(self._sizes):
            return torch.split(self._layers[0](x), self._sizes, dim=-1)
        return [layer(x) for layer in self._layers]
