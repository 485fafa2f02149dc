"""Writes a model as a folder of safetensors files, as model repositories have it.

FP8 as in the FP8 releases of the Qwen models: E4M3 in blocks of 128 by 128, each with a scale that
`weight_scale_inv` holds. Embeddings, the output matrix, and what steers the network stay as they
are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch
from torch import Tensor

from qcode.engine.checkpoint.canonical import stored_form, stored_values
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.names import one_expert
from qcode.engine.checkpoint.positioned_file import PositionedFile
from qcode.engine.checkpoint.safetensors import DTYPES, SafetensorsTensor
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.checkpoint.safetensors_writer import (
    SafetensorsShard,
    lay_out_shards,
    shard_index,
)
from qcode.engine.conversion.formats import OutputFormat, steers
from qcode.engine.conversion.jobs import Job, row_ranges
from qcode.engine.conversion.network_tensors import NetworkTensor
from qcode.engine.conversion.source import MatrixRows, SourceModel, float_rows
from qcode.engine.model_config import ModelConfig
from qcode.engine.quantization.fp8 import quantize_fp8_blocks
from qcode.engine.quantization.weight_format import DenseWeight
from qcode.protocol.errors import CheckpointError, UnsupportedModel

FP8 = "F8_E4M3"
FP8_BLOCK = 128
_NAMES = {DTYPES[name]: name for name in ("F32", "F16", "BF16")}
_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", FP8: "bfloat16"}
_COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "LICENSE",
)

Entry = tuple[str, tuple[int, ...], str]


class SafetensorsTarget:
    """What the folder will hold, before anything is written."""

    def __init__(self, source: SourceModel, output: OutputFormat) -> None:
        """Raises UnsupportedModel for a source whose JSON files cannot be made."""
        checkpoint = source.checkpoint
        if not isinstance(checkpoint, SafetensorsCheckpoint):
            raise UnsupportedModel(
                f"{checkpoint.path}: a GGUF file cannot be turned into safetensors",
                hint="Start from the model's safetensors release, or write a .gguf file.",
            )
        assert output.dtype is not None
        self._source = source
        self._folder = checkpoint.path
        self._architecture = checkpoint.config.architecture
        self._dtype = output.dtype
        self._shards = lay_out_shards([e for t in source.tensors for e in self._entries(t)])
        self._small_files = self._json_files(checkpoint.config)
        copied = (self._folder / name for name in _COPIED_FILES)
        self._copied = [file for file in copied if file.is_file()]
        self.num_bytes = (
            sum(shard.num_bytes for shard in self._shards)
            + sum(map(len, self._small_files.values()))
            + sum(file.stat().st_size for file in self._copied)
        )

    def create(self, path: Path) -> ShardFiles:
        """Writes all but the tensors. Raises OSError."""
        path.mkdir()
        for name, text in self._small_files.items():
            (path / name).write_text(text, "utf-8")
        for file in self._copied:
            shutil.copyfile(file, path / file.name)
        return ShardFiles(path, self._shards)

    def jobs(self, files: ShardFiles) -> Iterator[Job]:
        """They raise CheckpointError for values that cannot be encoded, and OSError."""
        for tensor in self._source.tensors:
            if tensor.kind == "values":
                yield self._values_job(files, tensor)
                continue
            multiple = FP8_BLOCK if self._is_fp8(tensor) else 1
            *_, rows, width = tensor.shape
            write = self._write_fp8 if self._is_fp8(tensor) else self._write_floats
            matrices = zip(_names(tensor), self._source.matrices(tensor), strict=True)
            for name, matrix in matrices:
                for start, stop in row_ranges(rows, width, multiple):
                    part = partial(write, files, name, matrix, start, stop)
                    yield Job(num_values=(stop - start) * width, run=part)

    def _is_fp8(self, tensor: NetworkTensor) -> bool:
        """Embeddings and the output matrix are the only ones outside the layers."""
        in_layers = tensor.name.startswith("model.layers.")
        return self._dtype == FP8 and in_layers and not steers(tensor.name)

    def _entries(self, tensor: NetworkTensor) -> Iterator[Entry]:
        if tensor.kind == "values":
            name, shape = stored_form(self._architecture, tensor.name, tensor.shape)
            yield name, shape, _NAMES[_narrowest(self._values(tensor)).dtype]
            self._source.release()  # reading a little may map a lot around it
            return
        *_, rows, width = tensor.shape
        for name, matrix in zip(_names(tensor), self._source.matrices(tensor), strict=True):
            if self._is_fp8(tensor):
                grid = (-(-rows // FP8_BLOCK), -(-width // FP8_BLOCK))
                yield name, (rows, width), FP8
                yield f"{name}_scale_inv", grid, "F32"
            else:
                yield name, (rows, width), self._float_dtype(matrix)

    def _float_dtype(self, matrix: MatrixRows) -> str:
        """Of a matrix that is not quantised: as it is, in a quantised checkpoint."""
        if self._dtype != FP8:
            return self._dtype
        return _NAMES[matrix.tensor.dtype] if isinstance(matrix, DenseWeight) else "BF16"

    def _values(self, tensor: NetworkTensor) -> Tensor:
        return stored_values(self._architecture, tensor.name, self._source.values(tensor))

    def _values_job(self, files: ShardFiles, tensor: NetworkTensor) -> Job:
        name, _ = stored_form(self._architecture, tensor.name, tensor.shape)

        def run() -> None:
            values = self._values(tensor)
            if not values.isfinite().all():
                self._fail(name, "NaN or infinity")
            files.write(name, 0, values.to(DTYPES[files.dtype(name)]).contiguous())

        return Job(num_values=prod(tensor.shape), run=run)

    def _write_floats(
        self, files: ShardFiles, name: str, matrix: MatrixRows, start: int, stop: int
    ) -> None:
        rows = float_rows(matrix, start, stop).to(DTYPES[files.dtype(name)])
        if not rows.isfinite().all():
            self._fail(name, "NaN, infinity or a value too large")
        files.write(name, start * rows.shape[1], rows)

    def _write_fp8(
        self, files: ShardFiles, name: str, matrix: MatrixRows, start: int, stop: int
    ) -> None:
        rows = float_rows(matrix, start, stop).float()
        try:
            stored, scales = quantize_fp8_blocks(rows, (FP8_BLOCK, FP8_BLOCK))
        except ValueError as error:
            self._fail(name, "NaN or infinity", error)
        files.write(name, start * rows.shape[1], stored)
        files.write(f"{name}_scale_inv", start // FP8_BLOCK * scales.shape[1], scales)

    def _fail(self, name: str, held: str, cause: Exception | None = None) -> NoReturn:
        raise CheckpointError(
            f"{self._folder}: {name!r} cannot be stored as {self._dtype}: it holds {held}"
        ) from cause

    def _json_files(self, config: ModelConfig) -> Mapping[str, str]:
        kept = dict(read_json(self._folder / "config.json"))
        for key in ("quantization_config", "compression_config"):
            kept.pop(key, None)
        # transformers 5 writes `dtype`; published files have `torch_dtype`.
        kept["dtype" if "dtype" in kept else "torch_dtype"] = _TORCH_NAMES[self._dtype]
        if self._dtype == FP8:
            kept["quantization_config"] = fp8_config(config)
        texts = {"config.json": json.dumps(kept, indent=2) + "\n"}
        if len(self._shards) > 1:
            texts["model.safetensors.index.json"] = shard_index(self._shards)
        return texts


class ShardFiles:
    """The open files of a folder, and where in them each tensor lies."""

    def __init__(self, path: Path, shards: Sequence[SafetensorsShard]) -> None:
        self._places: dict[str, tuple[PositionedFile, SafetensorsTensor]] = {}
        with ExitStack() as files:
            for shard in shards:
                file = files.enter_context(PositionedFile(path / shard.name, shard.num_bytes))
                file.write(0, shard.header)
                self._places |= {name: (file, place) for name, place in shard.tensors.items()}
            self._files = files.pop_all()

    def dtype(self, name: str) -> str:
        return self._places[name][1].dtype

    def write(self, name: str, first: int, values: Tensor) -> None:
        """Values of a tensor from its value number `first` on."""
        file, place = self._places[name]
        file.write(place.offset + first * values.itemsize, values)

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)


def fp8_config(config: ModelConfig) -> Mapping[str, object]:
    """The `quantization_config` of the models' own FP8 releases."""
    result: dict[str, object] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }
    if config.experts:
        modules = ["lm_head"]
        for layer in range(config.num_layers):
            parts = ["input_layernorm", "mlp.gate", "post_attention_layernorm"]
            if config.architecture == "qwen3_next":
                parts.append("mlp.shared_expert_gate")
            if config.linear_attention and layer in config.linear_attention.layers:
                parts += ["linear_attn.in_proj_ba", "linear_attn.conv1d"]
            modules += [f"model.layers.{layer}.{part}" for part in parts]
        result["modules_to_not_convert"] = modules
    return result


def _names(tensor: NetworkTensor) -> Sequence[str]:
    """In a file that stores experts one by one."""
    if tensor.kind == "experts":
        return [one_expert(tensor.name, expert) for expert in range(tensor.shape[0])]
    return [tensor.name]


def _narrowest(values: Tensor) -> Tensor:
    """In bfloat16, the dtype of published files, where that loses nothing; else in float32."""
    narrow = values.bfloat16()
    return narrow if torch.equal(narrow.float(), values) else values
