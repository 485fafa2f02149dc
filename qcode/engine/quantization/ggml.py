"""Weights in the block formats of ggml, as GGUF files hold them."""

from math import prod

import torch
from torch import Tensor

from qcode.engine.kernels.fused_layer import StoredMatrix
from qcode.engine.kernels.library import installed
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml_decoders import DECODERS
from qcode.engine.quantization.weight_format import DenseWeight, Weight, linear_by_row_chunks
from qcode.protocol.errors import UnsupportedModel

FLOAT_DTYPES: dict[GgmlType, torch.dtype] = {
    GgmlType.F32: torch.float32,
    GgmlType.F16: torch.float16,
    GgmlType.BF16: torch.bfloat16,
}


def checked_type(type_id: int) -> GgmlType:
    """The type with this id. Raises UnsupportedModel for one we cannot read."""
    try:
        return GgmlType(type_id)
    except ValueError as error:
        readable = ", ".join(known.name for known in GgmlType)
        raise UnsupportedModel(
            f"the GGUF file holds tensors of ggml type {type_id}, which qcode cannot read",
            hint=f"Use a file quantised with one of: {readable}.",
        ) from error


def tensor_bytes(ggml_type: int, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes; `shape` has the contiguous axis last.

    Raises UnsupportedModel for an unknown type or a last axis that is not whole blocks.
    """
    block = BLOCK_LAYOUTS[checked_type(ggml_type)]
    if shape[-1] % block.block_size:
        raise UnsupportedModel(
            f"a tensor row of {shape[-1]} values is not a multiple of {block.block_size}"
        )
    return prod(shape) // block.block_size * block.block_bytes


def dequantize(raw: Tensor, ggml_type: int, shape: tuple[int, ...]) -> Tensor:
    """`raw` uint8 (any shape, in file order) -> float32 tensor of `shape`."""
    kind = checked_type(ggml_type)
    block = BLOCK_LAYOUTS[kind]
    if kind in FLOAT_DTYPES:
        return raw.reshape(-1).view(FLOAT_DTYPES[kind]).reshape(shape).float()
    return DECODERS[kind](raw.reshape(-1, block.block_bytes)).reshape(shape)


class GgmlWeight:
    """A matrix kept as the bytes of the file, which may be a view of it.

    The compiled kernels decode a few rows at a time into the cache while they multiply. Without
    them torch decodes all of it for every product.
    """

    __slots__ = ("_bytes", "_library", "_shape", "_type")

    def __init__(self, raw: Tensor, ggml_type: int, shape: tuple[int, int]) -> None:
        """`raw` holds the uint8 bytes of `shape` [out, in]; it is kept, not copied."""
        self._type = checked_type(ggml_type)
        self._shape = shape
        self._bytes = raw.reshape(shape[0], tensor_bytes(ggml_type, (1, shape[1])))
        self._library = installed() if raw.device.type == "cpu" else None

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def num_bytes(self) -> int:
        return self._bytes.nbytes

    def linear(self, x: Tensor) -> Tensor:
        if self._library is None:
            return linear_by_row_chunks(x, self._shape, self._float_rows)
        y = self._library.multiply_rows(self._bytes, self._type, self._shape, x.float())
        return y.to(x.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        if self._library is None:
            return dequantize(self._bytes[ids], self._type, (ids.shape[0], self._shape[1]))
        return self._library.decode_rows(self._bytes, self._type, self._shape, ids)

    def stored_matrix(self) -> StoredMatrix | None:
        if self._bytes.device.type != "cpu":
            return None
        return StoredMatrix(
            data=self._bytes, ggml_type=self._type, shape=self._shape, is_packed=False
        )

    def dequantize(self) -> Tensor:
        return dequantize(self._bytes, self._type, self._shape)

    def _float_rows(self, start: int, stop: int) -> Tensor:
        return dequantize(self._bytes[start:stop], self._type, (stop - start, self._shape[1]))


def ggml_weight(
    raw: Tensor, ggml_type: int, shape: tuple[int, int], *, mapped: bool = False
) -> Weight:
    """The fastest weight this machine has for these bytes; with `mapped`, the fastest view of them.

    `raw` uint8 holds a matrix `shape` [out, in]. Float types become a `DenseWeight` that shares
    memory with `raw`; a `PackedWeight` copies it, so its pages may be dropped afterwards.
    """
    kind = checked_type(ggml_type)
    if kind in FLOAT_DTYPES:
        return DenseWeight(raw.reshape(-1).view(FLOAT_DTYPES[kind]).reshape(shape))
    library = installed() if raw.device.type == "cpu" and not mapped else None
    if library and library.packed_bytes(kind, shape):
        return PackedWeight(library, raw, kind, shape)
    return GgmlWeight(raw, kind, shape)


def expert_weights(
    raw: Tensor, ggml_type: int, shape: tuple[int, int, int], *, mapped: bool = False
) -> list[Weight]:
    """One weight per expert from a stacked tensor `shape` [experts, out, in]."""
    experts, out_features, in_features = shape
    stacked = raw.reshape(experts, tensor_bytes(ggml_type, (out_features, in_features)))
    return [
        ggml_weight(expert, ggml_type, (out_features, in_features), mapped=mapped)
        for expert in stacked
    ]
