"""A directory of safetensors files as weights under our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.canonical import canonical, stored_form
from qcode.engine.checkpoint.checkpoint import check_shape
from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.names import fused_experts, one_expert, stacked_experts
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.engine.quantization.weight_format import DenseWeight, Weight
from qcode.protocol.errors import CheckpointError


class SafetensorsCheckpoint:
    """A directory with `config.json` and one or several safetensors files."""

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.path = path
        self.config = config_from_json(
            read_json(path / "config.json"),
            read_json(path / "generation_config.json", optional=True),
            str(path / "config.json"),
        )
        self._files = _open_shards(path)
        self._dtype = dtype
        self._device = device

    def has(self, name: str) -> bool:
        return name in self._files

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        return DenseWeight(self.tensor(name, shape))

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        architecture = self.config.architecture
        stored, stored_shape = stored_form(architecture, name, shape)
        file = self._files.get(stored)
        if file is None:
            raise CheckpointError(f"{self.path}: tensor {stored!r} is missing")
        check_shape(file.path, stored, file.tensors[stored].shape, stored_shape)
        tensor = canonical(architecture, name, file.tensor(stored).to(self._device))
        return tensor.to(dtype or self._dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        num_experts, rows, columns = shape
        if one_expert(name, 0) in self._files:
            return [
                self.weight(one_expert(name, expert), (rows, columns))
                for expert in range(num_experts)
            ]
        if stacked_experts(name) in self._files:
            stacked = self.tensor(stacked_experts(name), shape)
        else:
            fused, half = fused_experts(name)
            stacked = self.tensor(fused, (num_experts, 2 * rows, columns))
            stacked = stacked[:, half * rows : (half + 1) * rows]
        return [DenseWeight(expert) for expert in stacked]


def _open_shards(path: Path) -> Mapping[str, SafetensorsFile]:
    """The file that holds each tensor, by tensor name."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        file = SafetensorsFile(path / "model.safetensors")
        return dict.fromkeys(file.tensors, file)
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index}: weight_map is missing")
    files: dict[str, SafetensorsFile] = {}
    for shard in set(map(str, shards.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: {shard!r} is not a file beside it")
        files[shard] = SafetensorsFile(path / shard)
    for name, shard in shards.items():
        if name not in files[str(shard)].tensors:
            raise CheckpointError(f"{path / str(shard)}: tensor {name!r} is missing")
    return {name: files[str(shard)] for name, shard in shards.items()}
