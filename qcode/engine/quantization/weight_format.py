"""What every stored weight can do, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from qcode.engine.kernels.fused_layer import StoredMatrix
from qcode.engine.kernels.library import installed
from qcode.engine.quantization.block_layouts import GgmlType

_CONVERTED_CHUNK_BYTES = 4 * 2**20
"""Size of the float32 copy of part of a weight that exists during one product: about what stays
in a core's cache between being written and being read."""

_MIN_CHUNK_ROWS = 64
"""Products of fewer rows waste the time of starting them."""

_STORED_AS = {
    torch.float32: GgmlType.F32,
    torch.float16: GgmlType.F16,
    torch.bfloat16: GgmlType.BF16,
}
"""The ggml types whose bytes are those of a tensor."""


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
    """A plain float32, float16 or bfloat16 matrix, kept in the dtype it is stored in.

    Products with 16-bit values are done in float32, unless both factors have the same dtype.
    """

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
        if weight.dtype == torch.float32:
            return functional.linear(x.float(), weight).to(x.dtype)
        # Half-precision products of several rows fall to naive loops on CPUs without matching
        # instructions, a hundred times slower than float32.
        if x.dtype == weight.dtype and (x.shape[0] == 1 or weight.device.type != "cpu"):
            return functional.linear(x, weight)
        library = installed() if weight.device.type == "cpu" else None
        if library and weight.is_contiguous():
            kind = _STORED_AS[weight.dtype]
            return library.multiply_rows(weight, kind, self.shape, x.float()).to(x.dtype)
        return linear_by_row_chunks(x, self.shape, lambda a, b: weight[a:b].float())

    def rows(self, ids: Tensor) -> Tensor:
        return self._tensor[ids]

    def stored_matrix(self) -> StoredMatrix | None:
        weight = self._tensor
        if weight.device.type != "cpu" or not weight.is_contiguous():
            return None
        kind = _STORED_AS[weight.dtype]
        return StoredMatrix(data=weight, ggml_type=kind, shape=self.shape, is_packed=False)

    def dequantize(self) -> Tensor:
        return self._tensor.float()


class UnpackedWeight(DenseWeight):
    """A quantised matrix decoded to bfloat16, for machines without compiled kernels.

    The one exception to weights staying in their packed form: decoding by torch for every product
    takes tens of milliseconds a matrix, seconds a token, so where memory is plenty it is done once.
    One row is rounded to bfloat16 and multiplied as it is, which reads two bytes a value; the
    compiled kernels round it to eight bits.
    """

    __slots__ = ()

    def linear(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return functional.linear(x.to(self.tensor.dtype), self.tensor).to(x.dtype)
        return super().linear(x)


class DecodedWeight(ABC):
    """A matrix kept in its packed form; every product decodes it again, some rows at a time."""

    __slots__ = ("_shape", "_stored")

    def __init__(self, shape: tuple[int, int], stored: Sequence[Tensor]) -> None:
        """`stored` are the tensors it consists of; they are kept, not copied."""
        self._shape = shape
        self._stored = tuple(stored)

    @abstractmethod
    def decode(self, rows: slice | Tensor) -> Tensor:
        """The rows of a slice with both ends, or of an index [n] int64 -> [n, in] float32."""

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The packed values, and whatever else is needed to decode them."""
        return self._stored

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._stored)

    def linear(self, x: Tensor) -> Tensor:
        return linear_by_row_chunks(x, self._shape, lambda a, b: self.decode(slice(a, b)))

    def rows(self, ids: Tensor) -> Tensor:
        return self.decode(ids)

    def dequantize(self) -> Tensor:
        return self.decode(slice(0, self._shape[0]))


class WeightRows(DecodedWeight):
    """Neighbouring rows of a packed matrix that is stored together with others."""

    __slots__ = ("_start", "_whole")

    def __init__(self, whole: DecodedWeight, start: int, stop: int) -> None:
        super().__init__((stop - start, whole.shape[1]), whole.stored)
        self._whole = whole
        self._start = start

    @property
    def num_bytes(self) -> int:
        """Its share of the whole."""
        return self._whole.num_bytes * self._shape[0] // self._whole.shape[0]

    def decode(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            return self._whole.decode(slice(self._start + rows.start, self._start + rows.stop))
        return self._whole.decode(rows + self._start)


def linear_by_row_chunks(
    x: Tensor, shape: tuple[int, int], float_rows: Callable[[int, int], Tensor]
) -> Tensor:
    """x [T, in] -> [T, out] in float32 maths, converting only some rows of the weight at a time.

    `float_rows(start, stop)` gives those rows as float32 [stop - start, in].
    """
    out_features, in_features = shape
    chunk = max(_MIN_CHUNK_ROWS, _CONVERTED_CHUNK_BYTES // (4 * in_features))
    x32 = x.float()
    y = torch.empty(x.shape[0], out_features, dtype=torch.float32, device=x.device)
    for start in range(0, out_features, chunk):
        stop = min(start + chunk, out_features)
        y[:, start:stop] = functional.linear(x32, float_rows(start, stop))
    return y.to(x.dtype)
