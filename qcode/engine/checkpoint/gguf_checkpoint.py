"""GGUF files as weights under our names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.checkpoint import check_shape
from qcode.engine.checkpoint.config import config_from_gguf
from qcode.engine.checkpoint.gguf import GgufTensor
from qcode.engine.checkpoint.gguf_parts import GgufParts
from qcode.engine.checkpoint.names import fused_experts, gguf_name
from qcode.engine.checkpoint.packed_file import PackedFile
from qcode.engine.checkpoint.packed_writer import Matrices
from qcode.engine.device import available_bytes
from qcode.engine.kernels.library import installed
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS
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

_COPY_SHARE = 0.8
"""Of the available memory, what copies of weights may take; the rest is for keys and values."""

EXPERTS_MARK = "_exps."
"""In the names of all tensors of experts, and of no others."""


class Residency(Enum):
    """What is copied out of the file into the form the kernels are fastest with.

    What is copied lives in memory for good, and its part of the file is let go of. What is not
    stays a view of the file: the system reads it in when it is used, and drops it when memory
    runs short.
    """

    ALL = "all weights"
    ALL_BUT_EXPERTS = "all weights but the experts"
    NONE = "no weights"


class GgufCheckpoint:
    """A GGUF file, or all parts of a split one.

    Weights are copied only as far as they fit into memory; where products must be `exact` in
    float32, none are. Without compiled kernels, and where memory is plenty, quantised weights
    become an `UnpackedWeight`.

    Where there is a `packed` file of the weights, those that it holds are views of it.
    """

    def __init__(
        self, path: Path, dtype: torch.dtype, device: torch.device, *, exact: bool = False
    ) -> None:
        self.file = GgufParts(path)
        self.path = self.file.path
        shapes = {name: tensor.shape for name, tensor in self.file.tensors.items()}
        self.config = config_from_gguf(self.file.metadata, shapes, str(path))
        self._dtype = dtype
        self._device = device
        on_cpu = device.type == "cpu"
        tensors = self.file.tensors.values()
        memory = int(_COPY_SHARE * available_bytes(device)) if on_cpu else 0
        self.residency = Residency.NONE if exact else choose_residency(tensors, memory)
        unpacked_bytes = sum(2 * tensor.num_elements for tensor in tensors)
        self._unpacks = on_cpu and not exact and not installed() and unpacked_bytes < memory // 2
        self.can_pack = on_cpu and not exact and installed() is not None
        """Whether the compiled kernels are to multiply packed weights."""
        self.packed: PackedFile | None = None
        """To be set before the first weight is asked for."""
        self.packable: list[Matrices] = []
        """All weights asked for so far that have a packed form."""

    def format_mix(self) -> Mapping[str, int]:
        """Bytes of the tensors of each type, by its name, the most first. Reads no tensor."""
        total: Counter[str] = Counter()
        for tensor in self.file.tensors.values():
            total[BLOCK_LAYOUTS[tensor.ggml_type].name] += tensor.num_bytes
        return dict(total.most_common())

    def check_files(self) -> None:
        """Raises CheckpointError when a file has been cut since it was opened: weights may be
        views of it, and reading what is gone would kill the process."""
        self.file.check()
        if self.packed is not None:
            self.packed.check()

    def has(self, name: str) -> bool:
        return self._stored_name(name) in self.file.tensors

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        stored = self._stored_name(name)
        raw, ggml_type = self._raw(stored, shape)
        if self._device.type != "cpu" and checked_type(ggml_type) in FLOAT_DTYPES:
            return DenseWeight(self.tensor(name, shape))
        if found := self._from_packed(name, ggml_type, 1, shape):
            return found[0]
        mapped = not self._copies(stored)
        weight = self._resident([ggml_weight(raw, ggml_type, shape, mapped=mapped)], stored)[0]
        self._note_packable(name, ggml_type, shape, [raw], [weight])
        return weight

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        raw, ggml_type = self._raw(self._stored_name(name), shape)
        return dequantize(raw, ggml_type, shape).to(dtype or self._dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        stored, raw, ggml_type = self._stacked(name, shape)
        if self._device.type != "cpu" and checked_type(ggml_type) in FLOAT_DTYPES:
            return [DenseWeight(w) for w in dequantize(raw, ggml_type, shape).to(self._dtype)]
        count, matrix = shape[0], shape[1:]
        if found := self._from_packed(name, ggml_type, count, matrix):
            return found
        mapped = not self._copies(stored)
        weights = self._resident(expert_weights(raw, ggml_type, shape, mapped=mapped), stored)
        self._note_packable(name, ggml_type, matrix, list(raw.view(count, -1)), weights)
        return weights

    def _from_packed(
        self, name: str, ggml_type: int, count: int, shape: tuple[int, int]
    ) -> list[Weight]:
        """From the packed file; none where it does not hold them."""
        library = installed()
        if self.packed is None or library is None:
            return []
        size = library.packed_bytes(ggml_type, shape)
        found = self.packed.matrices(name, ggml_type, count, shape, size) if size else None
        return [PackedWeight.from_packed(library, item, ggml_type, shape) for item in found or ()]

    def _note_packable(
        self,
        name: str,
        ggml_type: int,
        shape: tuple[int, int],
        raw: Sequence[Tensor],
        weights: Sequence[Weight],
    ) -> None:
        library = installed()
        if self.can_pack and library is not None and library.packed_bytes(ggml_type, shape):
            self.packable.append(
                Matrices(name=name, ggml_type=ggml_type, shape=shape, raw=raw, weights=weights)
            )

    def _stacked(self, name: str, shape: tuple[int, int, int]) -> tuple[str, Tensor, int]:
        """The tensor that holds these matrices of all experts: its name, their bytes, its type.

        Some files have the rows of gate_proj and then those of up_proj in one tensor.
        """
        stored = self._stored_name(name)
        fused, half = fused_experts(name)
        fused_stored = self._stored_name(f"{fused}.weight")
        is_down = name.endswith(".down_proj.weight")
        if stored in self.file.tensors or is_down or fused_stored not in self.file.tensors:
            return stored, *self._raw(stored, shape)
        num_experts, rows, columns = shape
        raw, ggml_type = self._raw(fused_stored, (num_experts, 2 * rows, columns))
        return fused_stored, raw.view(num_experts, 2, -1)[:, half], ggml_type

    def _copies(self, stored: str) -> bool:
        if self.residency is Residency.ALL_BUT_EXPERTS:
            return EXPERTS_MARK not in stored
        return self.residency is Residency.ALL

    def _resident(self, weights: list[Weight], stored: str) -> list[Weight]:
        if self._unpacks and isinstance(weights[0], GgmlWeight):
            weights = [UnpackedWeight(weight.dequantize().to(torch.bfloat16)) for weight in weights]
        # What is a copy needs the file's pages no longer; they would stay in memory beside it.
        if self._device.type != "cpu" or isinstance(weights[0], PackedWeight | UnpackedWeight):
            self.file.release(stored)
        return weights

    def _stored_name(self, name: str) -> str:
        return gguf_name(name, self.config.architecture)

    def _raw(self, stored: str, shape: tuple[int, ...]) -> tuple[Tensor, int]:
        info = self.file.tensors.get(stored)
        if info is None:
            raise CheckpointError(f"{self.path}: tensor {stored!r} is missing")
        check_shape(self.file.path_of(stored), stored, info.shape, shape)
        return self.file.raw(stored).to(self._device), info.ggml_type


def choose_residency(tensors: Iterable[GgufTensor], memory_bytes: int) -> Residency:
    """How much of a model's quantised weights can be copied into that much memory."""
    experts = others = 0
    for tensor in tensors:
        if tensor.ggml_type in FLOAT_DTYPES:
            continue  # never copied
        if EXPERTS_MARK in tensor.name:
            experts += tensor.num_bytes
        else:
            others += tensor.num_bytes
    if experts + others <= memory_bytes:
        return Residency.ALL
    return Residency.ALL_BUT_EXPERTS if others <= memory_bytes else Residency.NONE
