"""Opens a checkpoint, whatever its format, as weights under one set of names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qcode.engine.checkpoint.config import config_from_gguf, config_from_json
from qcode.engine.checkpoint.gguf import MAGIC, GgufFile
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.names import fused_experts, gguf_name, one_expert, stacked_experts
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.engine.device import available_bytes
from qcode.engine.model_config import ModelConfig
from qcode.engine.quantization.ggml import (
    FLOAT_DTYPES,
    GgmlWeight,
    checked_type,
    dequantize,
    expert_weights,
    ggml_weight,
)
from qcode.engine.quantization.weight_format import DenseWeight, UnpackedWeight, Weight
from qcode.protocol.errors import CheckpointError, UnsupportedModel


class Checkpoint(Protocol):
    """Named weights on disk. A tensor that is missing, or not of the shape the network needs,
    raises CheckpointError; one in a format we cannot read raises UnsupportedModel.

    Unpacked weights and tensors come in the dtype and on the device asked for when it was opened.
    """

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> ModelConfig: ...

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        """The matrix `shape` [out, in], in the format it is stored in."""
        ...

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A small tensor, such as a norm or a bias, unpacked."""
        ...

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        """One matrix for each expert; `shape` is [experts, out, in]."""
        ...


def open_checkpoint(
    path: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SafetensorsCheckpoint | GgufCheckpoint:
    """A GGUF file, or a directory with `config.json` and safetensors files.

    Chosen by content, not by name. Raises CheckpointError, UnsupportedModel.
    """
    place = torch.device(device)
    if path.is_dir():
        return SafetensorsCheckpoint(path, dtype, place)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
    if magic == MAGIC:
        return GgufCheckpoint(path, dtype, place)
    raise UnsupportedModel(
        f"{path}: not a model the engine can read",
        hint="Give a .gguf file, or a directory with config.json and .safetensors files.",
    )


class GgufCheckpoint:
    """A GGUF file.

    Weights the kernels cannot multiply are unpacked to bfloat16 where memory is plenty: decoding
    them anew for each token takes seconds. Elsewhere they stay views of the file.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.path = path
        self.file = GgufFile(path)
        shapes = {name: tensor.shape for name, tensor in self.file.tensors.items()}
        self.config = config_from_gguf(self.file.metadata, shapes, str(path))
        self._dtype = dtype
        self._device = device
        self._unpacks = self._unpacked_bytes() < available_bytes(device) // 2

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        raw, ggml_type = self._raw(name, shape)
        if checked_type(ggml_type) in FLOAT_DTYPES:
            return DenseWeight(self.tensor(name, shape))
        return self._resident([ggml_weight(raw, ggml_type, shape)], name)[0]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        raw, ggml_type = self._raw(name, shape)
        return dequantize(raw, ggml_type, shape).to(self._dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        raw, ggml_type = self._raw(name, shape)
        if checked_type(ggml_type) in FLOAT_DTYPES:
            return [DenseWeight(expert) for expert in self.tensor(name, shape)]
        return self._resident(expert_weights(raw, ggml_type, shape), name)

    def _resident(self, weights: list[Weight], name: str) -> list[Weight]:
        if self._unpacks and isinstance(weights[0], GgmlWeight):
            weights = [UnpackedWeight(weight.dequantize().to(torch.bfloat16)) for weight in weights]
        # What is a copy needs the file's pages no longer; they would stay in memory beside it.
        if not isinstance(weights[0], GgmlWeight):
            self.file.release(gguf_name(name))
        return weights

    def _unpacked_bytes(self) -> int:
        return 2 * sum(math.prod(tensor.shape) for tensor in self.file.tensors.values())

    def _raw(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, int]:
        stored = gguf_name(name)
        info = self.file.tensors.get(stored)
        if info is None:
            raise CheckpointError(f"{self.path}: tensor {stored!r} is missing")
        _check_shape(self.path, stored, info.shape, shape)
        return self.file.raw(stored).to(self._device), info.ggml_type


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

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        return DenseWeight(self.tensor(name, shape))

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        file = self._files.get(name)
        if file is None:
            raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
        _check_shape(file.path, name, file.tensors[name].shape, shape)
        return file.tensor(name).to(self._device, self._dtype)

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


def _check_shape(path: Path, name: str, stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if stored != expected:
        raise CheckpointError(
            f"{path}: tensor {name!r} is {list(stored)}, the network needs {list(expected)}"
        )
