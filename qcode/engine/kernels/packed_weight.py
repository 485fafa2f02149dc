"""Quantised weights in the interleaved form the compiled kernels multiply."""

from torch import Tensor, arange

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

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes

    def linear(self, x: Tensor) -> Tensor:
        return self._library.multiply(self._packed, self._type, self._shape, x.float()).to(x.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        return self._library.unpack_rows(self._packed, self._type, self._shape, ids)

    def dequantize(self) -> Tensor:
        return self.rows(arange(self._shape[0]))
