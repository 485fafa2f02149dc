"""What every stored weight can do, whatever its format."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_CONVERTED_CHUNK_BYTES = 32 * 2**20
"""Upper bound for the float32 copy of part of a weight that exists during one product."""


class Weight(Protocol):
    """The matrix of a linear layer or embedding: `shape` is [out, in]."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def num_bytes(self) -> int:
        """Bytes this weight occupies in memory (or of the mapped file)."""
        ...

    def linear(self, x: Tensor) -> Tensor:
        """x [T, in] -> x W^T [T, out] in the dtype of `x`; a fresh tensor."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` [N] int64 of the matrix, as an embedding reads them -> [N, in]."""
        ...

    def dequantize(self) -> Tensor:
        """The whole matrix [out, in] in float32."""
        ...


class DenseWeight:
    """A plain float32, float16 or bfloat16 matrix."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        """`tensor` is [out, in]; it is kept, not copied."""
        self._tensor = tensor

    @property
    def tensor(self) -> Tensor:
        """The matrix itself [out, in], in the dtype it is stored in."""
        return self._tensor

    @property
    def shape(self) -> tuple[int, int]:
        out_features, in_features = self._tensor.shape
        return out_features, in_features

    @property
    def num_bytes(self) -> int:
        return self._tensor.nbytes

    def linear(self, x: Tensor) -> Tensor:
        weight = self._tensor
        if weight.device.type != "cpu":
            return functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        if weight.dtype == torch.float32:
            return functional.linear(x.float(), weight).to(x.dtype)
        if x.shape[0] == 1 and x.dtype == weight.dtype:
            return functional.linear(x, weight)
        # Half-precision products of several rows fall to naive loops on CPUs without matching
        # instructions, a hundred times slower than float32.
        return linear_by_row_chunks(x, self.shape, lambda a, b: weight[a:b].float())

    def rows(self, ids: Tensor) -> Tensor:
        return self._tensor[ids]

    def dequantize(self) -> Tensor:
        return self._tensor.float()


class UnpackedWeight(DenseWeight):
    """A quantised matrix decoded to bfloat16, for machines without compiled kernels.

    One row is rounded to bfloat16 and multiplied as it is, which reads two bytes a value; the
    compiled kernels round it to eight bits.
    """

    __slots__ = ()

    def linear(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return functional.linear(x.to(self.tensor.dtype), self.tensor).to(x.dtype)
        return super().linear(x)


def linear_by_row_chunks(
    x: Tensor, shape: tuple[int, int], float_rows: Callable[[int, int], Tensor]
) -> Tensor:
    """x [T, in] -> [T, out] in float32 maths, converting only some rows of the weight at a time.

    `float_rows(start, stop)` gives those rows as float32 [stop - start, in].
    """
    out_features, in_features = shape
    chunk = max(1, _CONVERTED_CHUNK_BYTES // (4 * in_features))
    x32 = x.float()
    y = torch.empty(x.shape[0], out_features, dtype=torch.float32, device=x.device)
    for start in range(0, out_features, chunk):
        stop = min(start + chunk, out_features)
        y[:, start:stop] = functional.linear(x32, float_rows(start, stop))
    return y.to(x.dtype)
