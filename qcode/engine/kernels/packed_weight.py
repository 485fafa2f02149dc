"""Quantised weights in the interleaved form the compiled kernels multiply."""

from __future__ import annotations

from torch import Tensor, arange

from qcode.engine.kernels.fused_layer import StoredMatrix
from qcode.engine.kernels.library import KernelLibrary


class PackedWeight:
    """A ggml weight repacked once; `x` is rounded to 8 bits, in blocks of 32, for each product."""

    __slots__ = ("_library", "_packed", "_shape", "_type")

    def __init__(
        self, library: KernelLibrary, raw: Tensor, ggml_type: int, shape: tuple[int, int]
    ) -> None:
        """`raw` holds the uint8 bytes of `shape` [out, in] as in a GGUF file; it is not kept.

        Raises ValueError for a type or width the library does not pack.
        """
        self._library = library
        self._type = ggml_type
        self._shape = shape
        self._packed = library.pack(raw, ggml_type, shape)

    @classmethod
    def from_packed(
        cls, library: KernelLibrary, packed: Tensor, ggml_type: int, shape: tuple[int, int]
    ) -> PackedWeight:
        """Of bytes that `KernelLibrary.pack` of this layout made; they are kept, not copied, and
        may be a view of a mapped file. Raises ValueError where there are too many or too few."""
        needed = library.packed_bytes(ggml_type, shape)
        if not needed or packed.nbytes != needed:
            raise ValueError(f"{packed.nbytes} packed bytes for a weight that takes {needed}")
        weight = cls.__new__(cls)
        weight._library = library
        weight._type = ggml_type
        weight._shape = shape
        weight._packed = packed
        return weight

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def ggml_type(self) -> int:
        return self._type

    @property
    def packed(self) -> Tensor:
        """uint8, contiguous; its bytes must not be written to."""
        return self._packed

    @property
    def data_ptr(self) -> int:
        """Where the packed bytes begin; valid as long as this weight."""
        return self._packed.data_ptr()

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes

    def linear(self, x: Tensor) -> Tensor:
        return self._library.multiply(self._packed, self._type, self._shape, x.float()).to(x.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        return self._library.unpack_rows(self._packed, self._type, self._shape, ids)

    def stored_matrix(self) -> StoredMatrix:
        return StoredMatrix(
            data=self._packed, ggml_type=self._type, shape=self._shape, is_packed=True
        )

    def dequantize(self) -> Tensor:
        return self.rows(arange(self._shape[0]))
