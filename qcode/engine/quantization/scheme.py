"""How a safetensors checkpoint says its weights are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["none", "fp8", "compressed-tensors", "modelopt", "awq", "gptq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationScheme:
    """What the tensors of a module do not say themselves.

    Which modules are quantised is seen from the tensors alone: the lists of exceptions in such
    files have been wrong.
    """

    method: Method = "none"
    num_bits: frozenset[int] = frozenset()
    """Widths of packed integers; empty where the file does not say."""
    blocks: frozenset[tuple[int, int]] = frozenset()
    """Rows and columns, in the order [out, in], that share a scale."""
    symmetric: bool = False
    """GPTQ: every zero point is the middle of the range."""
    zeros_minus_one: bool = False
    """GPTQ: zero points are stored as one less than they are."""
    reordered: bool = False
    """GPTQ: columns were grouped by importance, so that each says which group is its own."""

    @property
    def group_sizes(self) -> frozenset[int]:
        """Columns of a row that share a scale."""
        return frozenset(columns for rows, columns in self.blocks if rows == 1)
