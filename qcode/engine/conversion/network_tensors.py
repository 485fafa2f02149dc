"""Which tensors a network has: those it asks its checkpoint for while it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qcode.engine.checkpoint.checkpoint import Checkpoint
from qcode.engine.model_config import ModelConfig
from qcode.engine.models.qwen3 import Qwen3
from qcode.engine.models.qwen3_next import Qwen3Next
from qcode.engine.quantization.weight_format import DenseWeight, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTensor:
    """One tensor under our name. `values` are vectors and other tensors that are never packed."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "experts", "values"]


def network_tensors(checkpoint: Checkpoint) -> list[NetworkTensor]:
    """In the order the network asks for them. Reads nothing."""
    noting = _NotingCheckpoint(checkpoint)
    network = Qwen3Next if checkpoint.config.architecture == "qwen3_next" else Qwen3
    network(noting, dtype=torch.float32, device=torch.device("meta"))
    return list(noting.tensors.values())


class _NotingCheckpoint:
    """Gives tensors without content, and notes what was asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.tensors: dict[str, NetworkTensor] = {}

    @property
    def path(self) -> Path:
        return self._checkpoint.path

    @property
    def config(self) -> ModelConfig:
        return self._checkpoint.config

    def has(self, name: str) -> bool:
        return self._checkpoint.has(name)

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        self._note(name, shape, "matrix")
        return DenseWeight(torch.empty(shape, device="meta"))

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        self._note(name, shape, "values")
        return torch.empty(shape, dtype=dtype, device="meta")

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        self._note(name, shape, "experts")
        return [DenseWeight(expert) for expert in torch.empty(shape, device="meta")]

    def _note(
        self, name: str, shape: tuple[int, ...], kind: Literal["matrix", "experts", "values"]
    ) -> None:
        self.tensors[name] = NetworkTensor(name=name, shape=shape, kind=kind)
