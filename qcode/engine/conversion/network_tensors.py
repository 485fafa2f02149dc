"""Which tensors a network has: those it asks its checkpoint for while it is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qcode.engine.checkpoint.checkpoint import Checkpoint
from qcode.engine.model_config import LinearAttentionConfig, ModelConfig
from qcode.engine.models.loading import network_class
from qcode.engine.quantization.weight_format import DenseWeight, Weight

_GROUPED = "in_proj_qkvz"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTensor:
    """One tensor under our name. `values` are vectors and other tensors that are never packed."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "experts", "values"]
    stored_in: str = ""
    """The matrix that holds its rows among others, where it is not one of its own."""
    stored_shape: tuple[int, int] = (0, 0)
    stored_rows: Tensor | None = field(default=None, compare=False)
    """[out] int64: where in that matrix each of its rows lies."""


def network_tensors(checkpoint: Checkpoint) -> list[NetworkTensor]:
    """In the order the network asks for them. Reads nothing."""
    noting = _NotingCheckpoint(checkpoint)
    network = network_class(checkpoint.config)
    network(noting, dtype=torch.float32, device=torch.device("cpu"))
    return list(noting.tensors.values())


def parted_projections(
    tensors: Iterable[NetworkTensor], config: LinearAttentionConfig
) -> Iterator[NetworkTensor]:
    """The same, with each `in_proj_qkvz` as the two matrices that newer GGUF files have instead.

    Its rows are grouped by key head; theirs are all queries, all keys, all values; and all gates.
    """
    key_dim = config.key_head_dim
    value_dim = config.num_value_heads // config.num_key_heads * config.value_head_dim
    for tensor in tensors:
        if not tensor.name.endswith(f"{_GROUPED}.weight"):
            yield tensor
            continue
        rows, width = tensor.shape
        by_head = torch.arange(rows).view(config.num_key_heads, -1)
        *qkv, gates = torch.split(by_head, [key_dim, key_dim, value_dim, value_dim], dim=1)
        parts = {
            "in_proj_qkv": torch.cat([part.flatten() for part in qkv]),
            "in_proj_z": gates.flatten(),
        }
        for part, places in parts.items():
            yield NetworkTensor(
                name=tensor.name.replace(_GROUPED, part),
                shape=(len(places), width),
                kind="matrix",
                stored_in=tensor.name,
                stored_shape=(rows, width),
                stored_rows=places,
            )


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
        return DenseWeight(_nothing(shape))

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        self._note(name, shape, "values")
        return _nothing(shape, dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        self._note(name, shape, "experts")
        return [DenseWeight(expert) for expert in _nothing(shape)]

    def format_mix(self) -> Mapping[str, int]:
        return self._checkpoint.format_mix()

    def _note(
        self, name: str, shape: tuple[int, ...], kind: Literal["matrix", "experts", "values"]
    ) -> None:
        self.tensors[name] = NetworkTensor(name=name, shape=shape, kind=kind)


def _nothing(shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of this shape that takes no memory: all its elements are one.

    torch's meta device would do, but loads a hundred megabytes of code.
    """
    return torch.zeros((), dtype=dtype).expand(shape)
