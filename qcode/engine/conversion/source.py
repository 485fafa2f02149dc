"""The model that is converted: its tensors some rows at a time, and what else belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.conversion.network_tensors import NetworkTensor, network_tensors
from qcode.engine.quantization.weight_format import Weight

Source = GgufCheckpoint | SafetensorsCheckpoint


class MatrixRows(Protocol):
    """A matrix that is read some rows at a time."""

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` [N] int64 -> [N, in], as floats of any width."""
        ...


class _ChosenRows:
    """Some rows of a weight, as a matrix."""

    def __init__(self, weight: Weight, chosen: Tensor) -> None:
        self._weight = weight
        self._chosen = chosen

    def rows(self, ids: Tensor) -> Tensor:
        return self._weight.rows(self._chosen[ids])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A checkpoint whose weights are views of its files."""

    checkpoint: Source
    tensors: tuple[NetworkTensor, ...]

    @property
    def num_values(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def values(self, tensor: NetworkTensor) -> Tensor:
        """One of kind "values", in float32."""
        return self.checkpoint.tensor(tensor.name, tensor.shape, torch.float32)

    def matrices(self, tensor: NetworkTensor) -> Iterator[MatrixRows]:
        """The one matrix of this name, or one for each expert."""
        if tensor.stored_rows is not None:
            weight = self.checkpoint.weight(tensor.stored_in, tensor.stored_shape)
            yield _ChosenRows(weight, tensor.stored_rows)
            return
        match tensor.shape:
            case (rows, width):
                yield self.checkpoint.weight(tensor.name, (rows, width))
            case (experts, rows, width):
                yield from self.checkpoint.experts(tensor.name, (experts, rows, width))

    def release(self) -> None:
        """Give back the memory of what was read: it is rarely needed twice."""
        if isinstance(self.checkpoint, SafetensorsCheckpoint):
            self.checkpoint.release()
            return
        for name in self.checkpoint.file.tensors:
            self.checkpoint.file.release(name)


def source_model(checkpoint: Source) -> SourceModel:
    """Raises CheckpointError, UnsupportedModel."""
    return SourceModel(checkpoint=checkpoint, tensors=tuple(network_tensors(checkpoint)))


def float_rows(matrix: MatrixRows, start: int, stop: int) -> Tensor:
    """Rows of a matrix [stop - start, in]; floats of the width they are stored in."""
    return matrix.rows(torch.arange(start, stop))
