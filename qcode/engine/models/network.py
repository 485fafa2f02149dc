"""What every network can do, whatever its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache


class Network(Protocol):
    """Weights only: all state of a step is in the arguments."""

    @property
    def key_channels(self) -> Sequence[Tensor | None]:
        """For each layer with full attention, in order, what its int8 keys are divided by
        [Hkv, D], if anything; empty where that is so of none."""
        ...

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        """ids [N] int64 -> hidden [N, D]; what these tokens leave is written to the caches."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, D] -> [R, V] float32."""
        ...
