"""The tensors that files hold for one linear layer, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from qcode.protocol.errors import CheckpointError, UnsupportedModel

PACKED_PARTS = ("weight", "weight_packed", "qweight")
"""What holds the values of a matrix, in one format or another."""

HARMLESS_PARTS = frozenset(
    {
        "bias",
        "input_scale",
        "input_scale_inv",
        "input_zero_point",
        "input_global_scale",
        "activation_scale",
        "activation_scale_inv",
        "output_scale",
        "k_scale",
        "v_scale",
    }
)
"""What may lie beside a weight without changing it: how to round activations, caches and outputs,
which are not rounded here, and the bias, which the network adds itself."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a mapped file, known by its header only."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """A view of the file, on the CPU."""

    @property
    def num_values(self) -> int:
        return prod(self.shape)

    def expert(self, index: int, num_experts: int) -> StoredTensor:
        """One expert's slice of what is stacked along the first axis.

        A single number stands for all of them.
        """
        if self.shape[:1] != (num_experts,):
            return self
        read = self.read
        return replace(self, shape=self.shape[1:], read=lambda: read()[index])


class StoredModule:
    """Tensors by the last part of their names, such as "weight" and "weight_scale".

    Every check raises CheckpointError naming the file and the tensor.
    """

    __slots__ = ("device", "parts")

    def __init__(self, parts: Mapping[str, StoredTensor], device: torch.device) -> None:
        """`device` is where the weight shall be in the end."""
        self.parts = parts
        self.device = device

    def expert(self, index: int, num_experts: int) -> StoredModule:
        """One expert's share of tensors that are stacked along the first axis."""
        for part in PACKED_PARTS:
            if part in self.parts and self.parts[part].shape[:1] != (num_experts,):
                self.fail(
                    part,
                    f"is {list(self.parts[part].shape)}, the network needs {num_experts} experts",
                )
        parts = {part: stored.expert(index, num_experts) for part, stored in self.parts.items()}
        return StoredModule(parts, self.device)

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    def fail(self, part: str, message: str) -> NoReturn:
        stored = self.parts[part]
        raise CheckpointError(f"{stored.path}: tensor {stored.name!r} {message}")

    def require(
        self, part: str, dtypes: frozenset[torch.dtype], *shapes: tuple[int, ...]
    ) -> StoredTensor:
        """The tensor `part`, of one of these dtypes and, if any are given, of these shapes."""
        stored = self.parts.get(part)
        if stored is None:
            beside = next(iter(self.parts.values()))
            raise CheckpointError(f"{beside.path}: {beside.name!r} has no {part!r} beside it")
        if stored.dtype not in dtypes:
            known = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            found = str(stored.dtype).removeprefix("torch.")
            self.fail(part, f"is stored as {found}, not as {known}")
        if shapes and stored.shape not in shapes:
            needed = " or ".join(str(list(shape)) for shape in shapes)
            self.fail(part, f"is {list(stored.shape)}, the network needs {needed}")
        return stored

    def read(self, part: str, dtypes: frozenset[torch.dtype], *shapes: tuple[int, ...]) -> Tensor:
        """The content of `require` on the device of this module."""
        return self.require(part, dtypes, *shapes).read().to(self.device)

    def check_only(self, used: frozenset[str]) -> None:
        """Raises UnsupportedModel for a tensor that may change what the weight means."""
        for part in self.parts.keys() - used - HARMLESS_PARTS:
            stored = self.parts[part]
            raise UnsupportedModel(
                f"{stored.path}: it is not known what {stored.name!r} does to the weight beside it",
                hint="Use another release of the model, or a GGUF file of it.",
            )
