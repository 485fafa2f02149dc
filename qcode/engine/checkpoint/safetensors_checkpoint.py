"""A directory of safetensors files as weights under our names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.canonical import canonical, stored_form
from qcode.engine.checkpoint.checkpoint import check_shape
from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.names import (
    expert_part,
    fused_experts,
    one_expert,
    stacked_experts,
)
from qcode.engine.checkpoint.quantization_config import quantization_scheme
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.engine.quantization.gptq import scheme_as_stored
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import (
    HARMLESS_PARTS,
    PACKED_PARTS,
    StoredModule,
    StoredTensor,
)
from qcode.engine.quantization.stored_weight import (
    FLOAT_NAMES,
    format_name,
    packed_weight,
)
from qcode.engine.quantization.weight_format import DecodedWeight, DenseWeight, Weight, WeightRows
from qcode.protocol.errors import CheckpointError

_EXPERTS = ".experts"


class SafetensorsCheckpoint:
    """A directory with `config.json` and one or several safetensors files.

    Matrices stay as they are stored: on the CPU they are views of the mapped files.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.path = path
        config = read_json(path / "config.json")
        self.config = config_from_json(
            config,
            read_json(path / "generation_config.json", optional=True),
            str(path / "config.json"),
        )
        self._files = _open_shards(path)
        self._shards = tuple(set(self._files.values()))
        self._modules = _by_module(self._files)
        self._dtype = dtype
        self._device = device
        self._scheme = self._as_stored(quantization_scheme(path, config))
        self._fused: tuple[str, list[DecodedWeight]] = "", []

    def check_files(self) -> None:
        """Raises CheckpointError when a file has been cut since it was opened: weights may be
        views of it, and reading what is gone would kill the process."""
        for file in self._shards:
            file.check()

    def has(self, name: str) -> bool:
        return name in self._files

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        module = self._module(name.removesuffix(".weight"))
        if module is None:
            raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
        if not _is_dense(module):
            return packed_weight(module, shape, self._scheme)
        return DenseWeight(self._placed(_dense(module, shape).read()))

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        architecture = self.config.architecture
        stored_name, stored_shape = stored_form(architecture, name, shape)
        if stored_name not in self._files:
            raise CheckpointError(f"{self.path}: tensor {stored_name!r} is missing")
        stored = self._stored(stored_name)
        if stored.dtype not in FLOAT_NAMES:
            raise CheckpointError(
                f"{stored.path}: tensor {stored_name!r} is stored as {stored.dtype}, not as floats"
            )
        check_shape(stored.path, stored_name, stored.shape, stored_shape)
        tensor = canonical(architecture, name, stored.read().to(self._device))
        return tensor.to(dtype or self._dtype)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        num_experts, rows, columns = shape
        if self._module(one_expert(name, 0).removesuffix(".weight")):
            return [
                self.weight(one_expert(name, expert), (rows, columns))
                for expert in range(num_experts)
            ]
        stacked = self._module(stacked_experts(name))
        if stacked:
            return [*self._stacked(stacked, shape)]
        fused, half = fused_experts(name)
        module = self._module(fused)
        if module is None:
            raise CheckpointError(f"{self.path}: tensor {one_expert(name, 0)!r} is missing")
        start, stop = half * rows, (half + 1) * rows
        if _is_dense(module):
            both = _dense(module, (num_experts, 2 * rows, columns)).read()
            return [DenseWeight(self._placed(expert[start:stop])) for expert in both]
        if self._fused[0] != fused:
            # Both projections need these, one soon after the other; on a GPU they are copies.
            self._fused = fused, self._packed(module, (num_experts, 2 * rows, columns))
        return [WeightRows(whole, start, stop) for whole in self._fused[1]]

    @contextmanager
    def scattered_reads(self) -> Iterator[None]:
        """While a network is built on the CPU: matrices become views, and only what is small and
        lies between them is read, such as scales and the groups of reordered columns."""
        is_scattered = self._device.type == "cpu"
        for file in self._shards:
            file.expect_scattered_reads(is_scattered)
        try:
            yield
        finally:
            for file in self._shards:
                file.expect_scattered_reads(False)

    def release(self) -> None:
        """Let go of the memory behind all that was read; reading it again is slower."""
        for file in self._shards:
            file.release()

    def format_mix(self) -> Mapping[str, int]:
        """Bytes of tensors stored in each format, such as "BF16" or "FP8 128x128".

        Scales count with the values they belong to. Reads headers only.
        """
        mix: Counter[str] = Counter()
        for name, files in self._modules.items():
            module = self._module(name)
            for part, file in files.items():
                info = file.tensors[f"{name}.{part}"]
                owner = module
                if name.endswith(_EXPERTS):
                    owner = self._module(f"{name}.{expert_part(part)[0]}")
                if owner is None or part in HARMLESS_PARTS:
                    mix[info.dtype] += info.num_bytes
                else:
                    mix[format_name(owner, self._scheme)] += info.num_bytes
        return mix

    def _stacked(self, module: StoredModule, shape: tuple[int, int, int]) -> list[Weight]:
        if _is_dense(module):
            return [DenseWeight(self._placed(expert)) for expert in _dense(module, shape).read()]
        return [*self._packed(module, shape)]

    def _packed(self, module: StoredModule, shape: tuple[int, int, int]) -> list[DecodedWeight]:
        num_experts, rows, columns = shape
        return [
            packed_weight(module.expert(index, num_experts), (rows, columns), self._scheme)
            for index in range(num_experts)
        ]

    def _placed(self, matrix: Tensor) -> Tensor:
        """On the CPU the view itself, elsewhere a copy that is ready for activations of 16 bits."""
        if self._device.type == "cpu":
            return matrix
        dtype = self._dtype if self._dtype.itemsize == 2 else matrix.dtype
        return matrix.to(self._device, dtype)

    def _as_stored(self, scheme: QuantizationScheme) -> QuantizationScheme:
        first = next((name for name, parts in self._modules.items() if "qweight" in parts), None)
        module = self._module(first) if first and scheme.method == "gptq" else None
        return scheme_as_stored(module, scheme) if module else scheme

    def _module(self, name: str) -> StoredModule | None:
        """The tensors of a linear layer or of stacked experts; None where there is no weight."""
        parts = {part: self._stored(f"{name}.{part}") for part in self._modules.get(name, ())}
        layer, _, projection = name.rpartition(".")
        if layer.endswith(_EXPERTS):
            for part in self._modules.get(layer, ()):
                of, kind = expert_part(part)
                if of == projection:
                    parts[kind] = self._stored(f"{layer}.{part}")
        if not any(part in parts for part in PACKED_PARTS):
            return None
        return StoredModule(parts, self._device)

    def _stored(self, name: str) -> StoredTensor:
        file = self._files[name]
        info = file.tensors[name]
        return StoredTensor(
            file.path, name, info.torch_dtype, info.shape, partial(file.tensor, name)
        )


def _is_dense(module: StoredModule) -> bool:
    return "weight" in module and module.parts["weight"].dtype in FLOAT_NAMES


def _dense(module: StoredModule, shape: tuple[int, ...]) -> StoredTensor:
    module.check_only(frozenset({"weight"}))
    return module.require("weight", frozenset(FLOAT_NAMES), shape)


def _by_module(
    files: Mapping[str, SafetensorsFile],
) -> Mapping[str, Mapping[str, SafetensorsFile]]:
    """The last parts of tensor names, and the file of each, by what comes before them."""
    modules: dict[str, dict[str, SafetensorsFile]] = {}
    for name, file in files.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = file
    return modules


def _open_shards(path: Path) -> Mapping[str, SafetensorsFile]:
    """The file that holds each tensor, by tensor name."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return _open_unlisted(path)
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


def _open_unlisted(path: Path) -> Mapping[str, SafetensorsFile]:
    """Without an index, every safetensors file of the directory belongs to the model."""
    found: dict[str, SafetensorsFile] = {}
    for shard in sorted(path.glob("*.safetensors")):
        file = SafetensorsFile(shard)
        for name in file.tensors:
            if name in found:
                raise CheckpointError(f"{shard}: tensor {name!r} is in {found[name].path.name} too")
            found[name] = file
    if not found:
        raise CheckpointError(
            f"{path}: there is no .safetensors file",
            "Pickled weights (.bin, .pt) can run code and are never loaded: get the model's "
            "safetensors release, or a GGUF file.",
        )
    return found
