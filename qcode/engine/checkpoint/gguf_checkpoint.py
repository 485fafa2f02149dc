"""A GGUF file as weights under our names."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.checkpoint import check_shape
from qcode.engine.checkpoint.config import config_from_gguf
from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.names import gguf_name
from qcode.engine.device import available_bytes
from qcode.engine.quantization.ggml import (
    FLOAT_DTYPES,
    GgmlWeight,
    checked_type,
    dequantize,
    expert_weights,
    ggml_weight,
)
from qcode.engine.quantization.weight_format import DenseWeight, UnpackedWeight, Weight
from qcode.protocol.errors import CheckpointError


class GgufCheckpoint:
    """A GGUF file.

    Weights the kernels cannot multiply are unpacked to bfloat16 where memory is plenty: decoding
    them anew for each token takes seconds. Elsewhere, and where products must be `exact` in
    float32, they stay views of the file.
    """

    def __init__(
        self, path: Path, dtype: torch.dtype, device: torch.device, *, exact: bool = False
    ) -> None:
        self.path = path
        self.file = GgufFile(path)
        shapes = {name: tensor.shape for name, tensor in self.file.tensors.items()}
        self.config = config_from_gguf(self.file.metadata, shapes, str(path))
        self._dtype = dtype
        self._device = device
        self._exact = exact
        self._unpacks = not exact and self._unpacked_bytes() < available_bytes(device) // 2

    def has(self, name: str) -> bool:
        return self._stored_name(name) in self.file.tensors

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        raw, ggml_type = self._raw(name, shape)
        if checked_type(ggml_type) in FLOAT_DTYPES:
            return DenseWeight(self.tensor(name, shape))
        return self._resident([ggml_weight(raw, ggml_type, shape, exact=self._exact)], name)[0]

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        raw, ggml_type = self._raw(name, shape)
        return dequantize(raw, ggml_type, shape).to(dtype or self._dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        raw, ggml_type = self._raw(name, shape)
        if checked_type(ggml_type) in FLOAT_DTYPES:
            return [DenseWeight(expert) for expert in self.tensor(name, shape)]
        return self._resident(expert_weights(raw, ggml_type, shape, exact=self._exact), name)

    def _resident(self, weights: list[Weight], name: str) -> list[Weight]:
        if self._unpacks and isinstance(weights[0], GgmlWeight):
            weights = [UnpackedWeight(weight.dequantize().to(torch.bfloat16)) for weight in weights]
        # What is a copy needs the file's pages no longer; they would stay in memory beside it.
        if not isinstance(weights[0], GgmlWeight):
            self.file.release(self._stored_name(name))
        return weights

    def _unpacked_bytes(self) -> int:
        return 2 * sum(math.prod(tensor.shape) for tensor in self.file.tensors.values())

    def _stored_name(self, name: str) -> str:
        return gguf_name(name, self.config.architecture)

    def _raw(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, int]:
        stored = self._stored_name(name)
        info = self.file.tensors.get(stored)
        if info is None:
            raise CheckpointError(f"{self.path}: tensor {stored!r} is missing")
        check_shape(self.path, stored, info.shape, shape)
        return self.file.raw(stored).to(self._device), info.ggml_type
