"""Root-mean-square normalisation."""

from torch import Tensor

from qcode.engine import kernels


class RMSNorm:
    """Normalises the last axis of its input and scales it by a learned weight.

    A float32 weight makes it compute in float32 throughout, whatever the input's dtype.
    """

    __slots__ = ("eps", "weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight` is [D]."""
        self.weight = weight
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        if x.dim() == 2 and x.dtype == self.weight.dtype:
            return kernels.rms_norm(x, self.weight, self.eps)
        rows = x.reshape(-1, x.shape[-1]).to(self.weight.dtype)
        return kernels.rms_norm(rows, self.weight, self.eps).view(x.shape).to(x.dtype)
