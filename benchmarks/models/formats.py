"""Every weight format on a tiny random checkpoint: the values beside an independent decoder, and
the network's logits beside transformers on those values in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from quantized_checkpoint import FORMATS, Format, is_quantized, write_quantized
from random_checkpoint import Weights, write_gguf, write_safetensors
from safetensors.torch import load_file

from benchmarks.models.architectures import random_tokens
from benchmarks.models.engine_logits import (
    DEFAULT,
    EXACT,
    RecordedEngine,
    Transformers,
    relative_error,
)
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.quantization.block_layouts import GgmlType

GGUF_TYPES = tuple(kind.name for kind in GgmlType)
PLAIN_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
QUANTIZED = {form.name: form for form in FORMATS}
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
}
"""Rows of whole blocks in every format of GGUF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatCheck:
    """Differences are shares of the largest value."""

    weight_difference: float
    """Between our weights and the independent decoder's."""
    exact_error: float
    """Of the logits with `dtype="float32"`, which rounds nothing."""
    default_error: float
    """Of the logits as the engine runs if nothing is asked for: kernels may round activations."""
    bytes_per_weight: float


def check_gguf(kind: str, folder: Path) -> FormatCheck:
    """The independent decoder is that of the `gguf` package."""
    file = folder / "model.gguf"
    decoded = write_gguf(file, "qwen3", matrix_type=kind, **SIZES)
    return _check(file, decoded, _matrices(decoded), folder)


def check_plain(kind: str, folder: Path) -> FormatCheck:
    """safetensors without quantisation, read by the `safetensors` package."""
    path = write_safetensors(folder / "stored", "qwen3", dtype=PLAIN_TYPES[kind], **SIZES)
    stored = load_file(path / "model.safetensors")
    decoded = {name: tensor.float() for name, tensor in stored.items()}
    return _check(path, decoded, _matrices(decoded), folder)


def check_quantized(name: str, folder: Path) -> FormatCheck:
    """The independent decoder is that of the tests, written from the format's description."""
    written = write_quantized(folder / "stored", "qwen3", QUANTIZED[name], **SIZES)
    quantized = [name for name in _matrices(written.decoded) if is_quantized(name)]
    return _check(written.directory, written.decoded, quantized, folder)


def method_of(form: Format) -> str:
    """The tool whose files these are, as the checkpoint names it."""
    return "modelopt" if form.config_file != "config.json" else str(form.config["quant_method"])


def _matrices(weights: Weights) -> list[str]:
    return [name for name, tensor in weights.items() if tensor.dim() == 2]


def _check(path: Path, decoded: Weights, names: list[str], folder: Path) -> FormatCheck:
    tokens = random_tokens(31, seed=5)
    unpacked = write_safetensors(folder / "decoded", "qwen3", weights=decoded, **SIZES)
    expected = Transformers(unpacked).logits(tokens[:-1])
    checkpoint = open_checkpoint(path, exact=True)
    weights = {
        name: checkpoint.weight(name, (decoded[name].shape[0], decoded[name].shape[1]))
        for name in names
    }
    return FormatCheck(
        weight_difference=max(
            relative_error(weight.dequantize(), decoded[name]) for name, weight in weights.items()
        ),
        exact_error=relative_error(RecordedEngine(path, EXACT).prefill(tokens), expected),
        default_error=relative_error(RecordedEngine(path, DEFAULT).prefill(tokens), expected),
        bytes_per_weight=sum(weight.num_bytes for weight in weights.values())
        / sum(decoded[name].numel() for name in names),
    )
