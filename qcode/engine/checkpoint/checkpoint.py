"""What every checkpoint offers, whatever the format of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qcode.engine.model_config import ModelConfig
from qcode.engine.quantization.weight_format import Weight
from qcode.protocol.errors import CheckpointError


class Checkpoint(Protocol):
    """Named weights on disk. A tensor that is missing, or not of the shape the network needs,
    raises CheckpointError; one in a format we cannot read raises UnsupportedModel.

    Weights and tensors come on the device asked for when it was opened; tensors also in the dtype
    asked for. Weights stay as they are stored: on the CPU they are views of the mapped file, or of
    what a kernel repacked.
    """

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> ModelConfig: ...

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name, where files of one network differ."""
        ...

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        """The matrix `shape` [out, in], in the format it is stored in."""
        ...

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """A small tensor, such as a norm or a bias, unpacked; in `dtype`, if it must be that."""
        ...

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        """One matrix for each expert; `shape` is [experts, out, in]."""
        ...

    def format_mix(self) -> Mapping[str, int]:
        """Bytes of tensors stored in each format, such as "BF16" or "Q4_K"; reads headers only."""
        ...


def check_shape(path: Path, name: str, stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises CheckpointError naming the file, the tensor and both shapes."""
    if stored != expected:
        raise CheckpointError(
            f"{path}: tensor {name!r} is {list(stored)}, the network needs {list(expected)}"
        )
