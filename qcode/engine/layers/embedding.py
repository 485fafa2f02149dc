"""Token ids to vectors."""

import torch
from torch import Tensor

from qcode.engine.quantization.weight_format import Weight


class Embedding:
    """Looks up rows of a matrix that may be stored in any format."""

    __slots__ = ("_dtype", "_weight")

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        """`weight` is [V, D]; vectors come out in `dtype`."""
        self._weight = weight
        self._dtype = dtype

    def __call__(self, ids: Tensor) -> Tensor:
        """ids [N] int64 -> [N, D]."""
        return self._weight.rows(ids).to(self._dtype)
