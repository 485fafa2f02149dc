"""Tiny random checkpoints in every quantised safetensors format, for tests.

Each format has an encoder and a decoder of its own, written from the descriptions of the formats
with plain loops and Python integers, so that they share nothing with the code they check.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_checkpoint import Family, Weights, random_config, random_weights, write_safetensors
from safetensors.torch import save_file

Parts = dict[str, torch.Tensor]
Matrix = np.ndarray
Config = dict[str, Any]

FP4_VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
AWQ_NIBBLE_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which of eight columns each nibble of a word holds, the lowest nibble first."""


@dataclass(frozen=True, kw_only=True)
class Format:
    name: str
    config: Config
    """The `quantization_config`."""
    encode: Callable[[Matrix, np.random.Generator], Parts]
    decode: Callable[[Parts], Matrix]
    mix: str
    """What the checkpoint calls the format."""
    error: float
    """Bound for the relative error of a dense network's logits."""
    exact: bool = True
    """Whether one rounding of one product gives each value, so that decoders agree to the bit."""
    stacks: bool = True
    """Whether files with all experts in one tensor hold it."""
    config_file: str = "config.json"


@dataclass(kw_only=True)
class Quantized:
    """A checkpoint that was written, and what its files mean."""

    directory: Path
    form: Format
    parts: dict[str, Parts] = field(default_factory=dict)
    """The tensors of each quantised module, by its name."""
    decoded: Weights = field(default_factory=dict)
    """All weights in float32 under the names of a plain checkpoint, experts apart."""
    original: Weights = field(default_factory=dict)


def write_quantized(
    directory: Path, family: Family, form: Format, *, stacked: bool = False, **changes: object
) -> Quantized:
    """Linear layers are in the format, but for the router and one that is left as bfloat16."""
    changes = {"num_hidden_layers": 2, "mlp_only_layers": [1], **changes}
    original = random_weights(random_config(family, **changes))
    result = Quantized(directory=directory, form=form, original=original)
    rng = np.random.default_rng(7)
    stored: Parts = {}
    apart = {name: w for name, w in original.items() if not (stacked and ".experts." in name)}
    for name, tensor in apart.items():
        if is_quantized(name):
            module = name.removesuffix(".weight")
            parts = result.parts[module] = form.encode(tensor.numpy(), rng)
            stored |= {f"{module}.{part}": content for part, content in parts.items()}
            result.decoded[name] = torch.from_numpy(form.decode(parts))
        else:
            stored[name] = tensor.bfloat16()
            result.decoded[name] = stored[name].float()
    if stacked:
        stored |= _stacked_experts(original, form, rng, result.decoded)
    write_safetensors(directory, family, weights={}, **changes)
    config = json.loads((directory / "config.json").read_text())
    if form.config_file == "config.json":
        config["quantization_config"] = form.config
    else:
        (directory / form.config_file).write_text(json.dumps(form.config))
    (directory / "config.json").write_text(json.dumps(config))
    # Cloned, because the package refuses tensors that share memory.
    stored = {name: tensor.clone().contiguous() for name, tensor in stored.items()}
    save_file(stored, directory / "model.safetensors")
    return result


def is_quantized(name: str) -> bool:
    return (
        name.endswith(("_proj.weight", ".in_proj_qkvz.weight"))
        and not name.endswith("layers.1.self_attn.o_proj.weight")
        and not name.endswith(".mlp.gate.weight")
    )


def _stacked_experts(
    weights: Weights, form: Format, rng: np.random.Generator, decoded: Weights
) -> Parts:
    """One tensor for the experts of a layer, the rows of gate_proj before those of up_proj."""
    stored: Parts = {}
    layers = sorted({name.split(".experts.")[0] for name in weights if ".experts." in name})
    for layer in layers:
        count = sum(n.startswith(layer) and n.endswith(".down_proj.weight") for n in weights)
        for fused, projections in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            experts = []
            for expert in range(count):
                names = [f"{layer}.experts.{expert}.{p}_proj.weight" for p in projections]
                whole = torch.cat([weights[name] for name in names])
                parts = form.encode(whole.numpy(), rng)
                experts.append(parts)
                halves = torch.from_numpy(form.decode(parts)).chunk(len(names))
                decoded.update(zip(names, halves, strict=True))
            for part in experts[0]:
                kind = part.removeprefix("weight") if part.startswith("weight") else f"_{part}"
                name = f"{layer}.experts.{fused}{kind}"
                stored[name] = torch.stack([parts[part] for parts in experts])
    return stored


# Floats of eight bits and fewer.


def e4m3(byte: int) -> float:
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    value = mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -value if sign else value


def e5m2(byte: int) -> float:
    sign, exponent, mantissa = byte >> 7, byte >> 2 & 31, byte & 3
    if exponent == 31:
        value = float("nan") if mantissa else float("inf")
    elif exponent == 0:
        value = mantissa / 4 * 2**-14
    else:
        value = (1 + mantissa / 4) * 2.0 ** (exponent - 15)
    return -value if sign else value


def e8m0(byte: int) -> float:
    return float("nan") if byte == 255 else 2.0 ** (byte - 127)


def e2m1(code: int) -> float:
    return -FP4_VALUES[code & 7] if code & 8 else FP4_VALUES[code]


BYTE_VALUES = {
    torch.float8_e4m3fn: e4m3,
    torch.float8_e5m2: e5m2,
    torch.float8_e8m0fnu: e8m0,
    torch.uint8: e8m0,
    torch.int8: lambda byte: float(byte - 256 if byte > 127 else byte),
}


def numbers(tensor: torch.Tensor) -> Matrix:
    """float64 from the bits of a tensor of any dtype a checkpoint may hold."""
    if tensor.dtype in BYTE_VALUES:
        value = BYTE_VALUES[tensor.dtype]
        flat = [value(byte) for byte in tensor.contiguous().view(torch.uint8).flatten().tolist()]
        return np.array(flat).reshape(tensor.shape)
    if tensor.dtype == torch.bfloat16:
        high = tensor.view(torch.int16).numpy().astype(np.uint16).astype(np.uint32) << 16
        return high.view(np.float32).astype(np.float64).reshape(tensor.shape)
    return tensor.numpy().astype(np.float64)


# Eight-bit values with a scale for each block.


def eight_bit(
    name: str,
    config: Config,
    block: Callable[[int, int], tuple[int, int]],
    *,
    mix: str,
    error: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale_part: str = "weight_scale_inv",
    scale_dtype: torch.dtype = torch.bfloat16,
    scale_shape: tuple[int, ...] | None = None,
    zero_points: bool = False,
    config_file: str = "config.json",
) -> Format:
    """`block` gives the rows and columns that share a scale, for a matrix of so many of both."""
    largest = {torch.float8_e4m3fn: 448, torch.float8_e5m2: 57344, torch.int8: 127}[dtype]

    def encode(matrix: Matrix, rng: np.random.Generator) -> Parts:
        rows, columns = block(*matrix.shape)
        grid = (-(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns))
        scales, zeros = np.zeros(grid, np.float32), np.zeros(grid, np.int8)
        for r, c in np.ndindex(grid):
            part = matrix[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
            scales[r, c] = np.abs(part).max() / largest
            if scale_dtype in (torch.uint8, torch.float8_e8m0fnu):
                scales[r, c] = 2.0 ** np.ceil(np.log2(scales[r, c]))
            zeros[r, c] = rng.integers(-5, 6) if zero_points else 0
        stored = torch.from_numpy(scales)
        if scale_dtype == torch.uint8:
            stored = stored.to(torch.float8_e8m0fnu).view(torch.uint8)
        stored = stored.to(scale_dtype)
        expanded = [np.kron(a, np.ones((rows, columns))) for a in (numbers(stored), zeros)]
        scale, zero = (a[: matrix.shape[0], : matrix.shape[1]] for a in expanded)
        values = matrix / scale + zero
        if dtype == torch.int8:
            values = np.round(values)
        parts = {
            "weight": torch.from_numpy(values.astype(np.float32))
            .clamp(-largest, largest)
            .to(dtype),
            scale_part: stored.reshape(scale_shape if scale_shape is not None else stored.shape),
        }
        if zero_points:
            parts["weight_zero_point"] = torch.from_numpy(zeros)
        return parts

    def decode(parts: Parts) -> Matrix:
        weight, scales = numbers(parts["weight"]), numbers(parts[scale_part])
        rows, columns = block(*weight.shape)
        scales = scales.reshape(-(-weight.shape[0] // rows), -1)
        zeros = numbers(parts["weight_zero_point"]) if zero_points else np.zeros(scales.shape)
        result = np.empty(weight.shape, np.float32)
        for n, k in np.ndindex(weight.shape):
            at = (n // rows, k // columns)
            result[n, k] = np.float32(weight[n, k] - zeros[at]) * np.float32(scales[at])
        return result

    return Format(
        name=name,
        config=config,
        encode=encode,
        decode=decode,
        mix=mix,
        error=error,
        config_file=config_file,
    )


def whole(rows: int, columns: int) -> tuple[int, int]:
    return rows, columns


def each_row(rows: int, columns: int) -> tuple[int, int]:
    return 1, columns


# Integers packed into words.


def pack(values: list[int], bits: int) -> list[int]:
    """Bit i * bits of one long number is where value i begins; cut into words of 32 bits."""
    number = sum(int(value) << i * bits for i, value in enumerate(values))
    count = -(-len(values) * bits // 32)
    return [number >> 32 * word & 0xFFFFFFFF for word in range(count)]


def unpack(words: list[int], bits: int, count: int) -> list[int]:
    number = sum((int(word) & 0xFFFFFFFF) << 32 * i for i, word in enumerate(words))
    return [number >> i * bits & (1 << bits) - 1 for i in range(count)]


def words_tensor(rows: list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(np.array(rows, np.uint32).view(np.int32))


def quantized_groups(
    matrix: Matrix, groups: Matrix, bits: int, *, symmetric: bool
) -> tuple[Matrix, Matrix, Matrix]:
    """matrix [out, in], groups [in] -> unsigned values, their scales and zero points [out, g]."""
    middle, highest = 1 << bits - 1, (1 << bits) - 1
    scales = np.zeros((matrix.shape[0], int(groups.max()) + 1), np.float16)
    zeros = np.full(scales.shape, middle)
    values = np.zeros(matrix.shape, np.int64)
    for n, g in np.ndindex(scales.shape):
        part = matrix[n, groups == g]
        if symmetric:
            scales[n, g] = np.abs(part).max() / max(1, middle - 1)
        else:
            scales[n, g] = (part.max() - part.min()) / highest
            # Not zero, because one version of GPTQ cannot store that.
            zeros[n, g] = np.clip(np.round(-part.min() / scales[n, g]), 1, highest)
        rounded = np.round(part / np.float64(scales[n, g])) + zeros[n, g]
        values[n, groups == g] = np.clip(rounded, 0, highest)
    return values, scales, zeros


def group_of_columns(columns: int, size: int, *, reordered: bool, rng: Any) -> Matrix:
    groups = np.arange(columns) // (size if size > 0 else columns)
    return rng.permutation(groups) if reordered else groups


def pack_quantized(
    bits: int, size: int, *, symmetric: bool, error: float, reordered: bool = False
) -> Format:
    name = f"pack-int{bits}" + "-group" * (size > 0)
    name += "-sym" * symmetric + "-reordered" * reordered

    def encode(matrix: Matrix, rng: np.random.Generator) -> Parts:
        groups = group_of_columns(matrix.shape[1], size, reordered=reordered, rng=rng)
        values, scales, zeros = quantized_groups(matrix, groups, bits, symmetric=symmetric)
        parts = {
            "weight_packed": words_tensor([pack(row, bits) for row in values.tolist()]),
            "weight_scale": torch.from_numpy(scales).bfloat16()
            if symmetric
            else torch.from_numpy(scales),
            "weight_shape": torch.tensor(matrix.shape),
        }
        if not symmetric:
            columns = [pack(column, bits) for column in zeros.T.tolist()]
            parts["weight_zero_point"] = words_tensor(columns).T
        if reordered:
            parts["weight_g_idx"] = torch.from_numpy(groups).int()
        return parts

    def decode(parts: Parts) -> Matrix:
        rows, columns = parts["weight_shape"].tolist()
        scales = numbers(parts["weight_scale"])
        width = columns if size < 0 else size
        groups = [k // width for k in range(columns)]
        if reordered:
            groups = parts["weight_g_idx"].tolist()
        zeros = np.full(scales.shape, 1 << bits - 1)
        if not symmetric:
            packed = parts["weight_zero_point"].T.tolist()
            zeros = np.array([unpack(column, bits, rows) for column in packed]).T
        result = np.empty((rows, columns), np.float32)
        for n, words in enumerate(parts["weight_packed"].tolist()):
            for k, q in enumerate(unpack(words, bits, columns)):
                at = (n, groups[k])
                result[n, k] = np.float32(q - zeros[at]) * np.float32(scales[at])
        return result

    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if size > 0 else "channel",
        "group_size": size if size > 0 else None,
        "actorder": "group" if reordered else None,
    }
    mix = f"INT{bits} group {size}" if size > 0 else f"INT{bits} channel"
    return Format(
        name=name,
        config=compressed_tensors("pack-quantized", weights),
        encode=encode,
        decode=decode,
        mix=mix,
        error=error,
    )


def compressed_tensors(form: str, weights: Config) -> Config:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        "kv_cache_scheme": None,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def awq(size: int) -> Format:
    def encode(matrix: Matrix, rng: np.random.Generator) -> Parts:
        groups = group_of_columns(matrix.shape[1], size, reordered=False, rng=rng)
        values, scales, zeros = quantized_groups(matrix, groups, 4, symmetric=False)
        return {
            "qweight": words_tensor([_awq_pack(row) for row in values.T.tolist()]),
            "qzeros": words_tensor([_awq_pack(row) for row in zeros.T.tolist()]),
            "scales": torch.from_numpy(scales.T.copy()),
        }

    def decode(parts: Parts) -> Matrix:
        values = [_awq_unpack(row) for row in parts["qweight"].tolist()]
        zeros = [_awq_unpack(row) for row in parts["qzeros"].tolist()]
        scales = numbers(parts["scales"])
        width = len(values) // len(zeros)
        result = np.empty((scales.shape[1], len(values)), np.float32)
        for o, i in np.ndindex(result.shape):
            g = i // width
            result[o, i] = np.float32(values[i][o] - zeros[g][o]) * np.float32(scales[g, o])
        return result

    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    mix = f"AWQ INT4 group {size}" if size > 0 else "AWQ INT4 channel"
    return Format(
        name=f"awq-group{size}",
        config=config,
        encode=encode,
        decode=decode,
        mix=mix,
        error=0.4,
        stacks=False,
    )


def _awq_pack(row: list[int]) -> list[int]:
    return [
        sum(int(row[c + column]) << 4 * k for k, column in enumerate(AWQ_NIBBLE_COLUMNS))
        for c in range(0, len(row), 8)
    ]


def _awq_unpack(words: list[int]) -> list[int]:
    row = [0] * (8 * len(words))
    for c, word in enumerate(words):
        for k, column in enumerate(AWQ_NIBBLE_COLUMNS):
            row[8 * c + column] = (word & 0xFFFFFFFF) >> 4 * k & 15
    return row


def gptq(
    bits: int,
    size: int,
    *,
    symmetric: bool,
    error: float,
    reordered: bool = False,
    version: int = 1,
    claims: int | None = None,
    g_idx: bool = True,
    says_reordered: bool | None = None,
) -> Format:
    """`claims` is the version the configuration names, if it is another than the file's.

    `says_reordered` is what it says about the order of columns, if that is not so.
    """
    name = f"gptq{bits}-group{size}-v{version}" + "-sym" * symmetric + "-reordered" * reordered
    name += f"-claims-v{claims}" if claims else ""
    name += "" if g_idx else "-no-index"
    name += "" if says_reordered is None else "-unsaid"
    offset = 1 if version == 1 else 0

    def encode(matrix: Matrix, rng: np.random.Generator) -> Parts:
        groups = group_of_columns(matrix.shape[1], size, reordered=reordered, rng=rng)
        values, scales, zeros = quantized_groups(matrix, groups, bits, symmetric=symmetric)
        columns = [pack(row, bits) for row in values.tolist()]
        parts = {
            "qweight": words_tensor(columns).T,
            "qzeros": words_tensor([pack(row, bits) for row in (zeros.T - offset).tolist()]),
            "scales": torch.from_numpy(scales.T.copy()),
        }
        if g_idx:
            parts["g_idx"] = torch.from_numpy(groups).int()
        return parts

    def decode(parts: Parts) -> Matrix:
        scales = numbers(parts["scales"])
        columns = parts["qweight"].shape[0] * 32 // bits
        width = columns if size < 0 else size
        groups = [i // width for i in range(columns)]
        if g_idx:
            groups = parts["g_idx"].tolist()
        rows = scales.shape[1]
        zeros = [[z + offset for z in unpack(w, bits, rows)] for w in parts["qzeros"].tolist()]
        result = np.empty((rows, columns), np.float32)
        for o, words in enumerate(parts["qweight"].T.tolist()):
            for i, q in enumerate(unpack(words, bits, columns)):
                g = groups[i]
                result[o, i] = np.float32(q - zeros[g][o]) * np.float32(scales[g, o])
        return result

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": size,
        "desc_act": reordered if says_reordered is None else says_reordered,
        "sym": symmetric,
    }
    if version == 2 or claims:
        config["checkpoint_format"] = {1: "gptq", 2: "gptq_v2"}[claims or version]
    mix = f"GPTQ INT{bits} group {size}" if size > 0 else f"GPTQ INT{bits} channel"
    return Format(
        name=name,
        config=config,
        encode=encode,
        decode=decode,
        mix=mix,
        error=error,
        stacks=False,
    )


# Floats of four bits.


def fp4(name: str, config: Config, *, mix: str, modelopt: bool = False, **more: Any) -> Format:
    mx = mix == "MXFP4"
    size = 32 if mx else 16
    codes = "weight" if modelopt else "weight_packed"

    def encode(matrix: Matrix, rng: np.random.Generator) -> Parts:
        del rng
        grid = (matrix.shape[0], matrix.shape[1] // size)
        largest = np.abs(matrix).reshape(*grid, size).max(-1) / 6
        # A global scale brings the scales of the groups into the range of E4M3.
        together = np.float32(1 if mx else largest.max() / 448)
        if mx:
            exponents = np.ceil(np.log2(largest)).astype(np.int64)
            scales = torch.from_numpy((exponents + 127).astype(np.uint8))
        else:
            scaled = torch.from_numpy((largest / together).astype(np.float32))
            scales = scaled.to(torch.float8_e4m3fn)
        levels = np.array([e2m1(code) for code in range(16)])
        steps = np.maximum(numbers(scales) * together, 1e-30)
        values = (matrix.reshape(*grid, size) / steps[:, :, None]).reshape(matrix.shape)
        nearest = np.abs(values[:, :, None] - levels).argmin(-1)
        packed = (nearest[:, 0::2] | nearest[:, 1::2] << 4).astype(np.uint8)
        parts = {codes: torch.from_numpy(packed), "weight_scale": scales}
        if modelopt:
            parts |= {"weight_scale_2": torch.tensor(together), "input_scale": torch.tensor(0.5)}
        elif not mx:
            parts["weight_global_scale"] = torch.tensor([1 / together])
        return parts

    def decode(parts: Parts) -> Matrix:
        scales = numbers(parts["weight_scale"])
        together = 1.0
        if modelopt:
            together = float(parts["weight_scale_2"])
        elif not mx:
            together = 1 / float(parts["weight_global_scale"])
        packed = parts[codes].tolist()
        result = np.empty((len(packed), 2 * len(packed[0])), np.float32)
        for n, k in np.ndindex(result.shape):
            code = packed[n][k // 2] >> 4 * (k % 2) & 15
            result[n, k] = e2m1(code) * scales[n, k // size] * together
        return result

    return Format(
        name=name,
        config=config,
        encode=encode,
        decode=decode,
        mix=mix,
        error=0.5,
        exact=mx,
        **more,
    )


def _fp8_config(block: list[int] | None = None) -> Config:
    config: Config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return config | ({"weight_block_size": block} if block else {})


def _fp8_weights(strategy: str, **more: object) -> Config:
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **more}


_INT8 = {"num_bits": 8, "type": "int"}
_NVFP4_MODELOPT = {
    "producer": {"name": "modelopt"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    },
}

FORMATS = [
    eight_bit(
        "fp8-blocks", _fp8_config([24, 40]), lambda n, k: (24, 40), mix="FP8 24x40", error=0.15
    ),
    eight_bit(
        "fp8-blocks-128", _fp8_config([128, 128]), lambda n, k: (128, 128), mix="FP8", error=0.15,
        scale_dtype=torch.float32,
    ),
    eight_bit(
        "fp8-blocks-e8m0", _fp8_config([32, 32]) | {"scale_fmt": "ue8m0"}, lambda n, k: (32, 32),
        mix="FP8 32x32", error=0.15, scale_dtype=torch.float8_e8m0fnu,
    ),
    eight_bit(
        "fp8-tensor", _fp8_config(), whole, mix="FP8", error=0.15, scale_dtype=torch.float32,
        scale_shape=(),
    ),
    eight_bit(
        "fp8-tensor-e5m2", _fp8_config() | {"fmt": "e5m2"}, whole, mix="FP8", error=0.25,
        dtype=torch.float8_e5m2, scale_part="weight_scale", scale_shape=(1,),
    ),
    eight_bit(
        "float-quantized-channel", compressed_tensors("float-quantized", _fp8_weights("channel")),
        each_row, mix="FP8 channel", error=0.15, scale_part="weight_scale",
    ),
    eight_bit(
        "float-quantized-blocks",
        compressed_tensors("float-quantized", _fp8_weights("block", block_structure=[16, 48])),
        lambda n, k: (16, 48), mix="FP8 16x48", error=0.15, scale_part="weight_scale",
    ),
    eight_bit(
        "mxfp8", compressed_tensors("mxfp8-quantized", _fp8_weights("group", group_size=32)),
        lambda n, k: (1, 32), mix="FP8 group 32", error=0.15, scale_part="weight_scale",
        scale_dtype=torch.uint8,
    ),
    eight_bit(
        "modelopt-fp8", {"quantization": {"quant_algo": "FP8"}}, whole, mix="FP8", error=0.15,
        scale_part="weight_scale", scale_dtype=torch.float32, scale_shape=(),
        config_file="hf_quant_config.json",
    ),
    eight_bit(
        "int8-channel", compressed_tensors("int-quantized", _INT8 | {"strategy": "channel"}),
        each_row, mix="INT8 channel", error=0.05, scale_part="weight_scale", dtype=torch.int8,
    ),
    eight_bit(
        "int8-tensor", compressed_tensors("int-quantized", _INT8 | {"strategy": "tensor"}),
        whole, mix="INT8", error=0.15, scale_part="weight_scale", dtype=torch.int8,
    ),
    eight_bit(
        "int8-group-zeros",
        compressed_tensors("int-quantized", _INT8 | {"strategy": "group", "group_size": 32}),
        lambda n, k: (1, 32), mix="INT8 group 32", error=0.05, scale_part="weight_scale",
        dtype=torch.int8, zero_points=True,
    ),
    pack_quantized(4, 32, symmetric=True, error=0.4),
    pack_quantized(4, 32, symmetric=False, error=0.4),
    pack_quantized(4, 16, symmetric=False, reordered=True, error=0.4),
    pack_quantized(4, -1, symmetric=True, error=0.4),
    pack_quantized(8, -1, symmetric=True, error=0.1),
    pack_quantized(3, 32, symmetric=False, error=0.8),
    fp4(
        "nvfp4",
        compressed_tensors(
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        ),
        mix="NVFP4",
    ),
    fp4(
        "mxfp4",
        compressed_tensors(
            "mxfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
        ),
        mix="MXFP4",
    ),
    fp4(
        "modelopt-nvfp4", _NVFP4_MODELOPT, mix="NVFP4", modelopt=True,
        config_file="hf_quant_config.json",
    ),
    awq(32),
    awq(-1),
    gptq(4, 32, symmetric=True, error=0.4),
    gptq(4, 32, symmetric=True, error=0.4, g_idx=False),
    gptq(4, 32, symmetric=True, error=0.4, version=2, claims=1),
    gptq(4, 32, symmetric=True, error=0.4, version=1, claims=2),
    gptq(4, 16, symmetric=False, reordered=True, error=0.4),
    gptq(4, 16, symmetric=True, reordered=True, says_reordered=False, error=0.4),
    gptq(4, -1, symmetric=False, error=0.4, version=2),
    gptq(8, 32, symmetric=True, error=0.1),
    gptq(3, 32, symmetric=False, error=0.8),
    gptq(2, 16, symmetric=True, error=1.5),
]  # fmt: skip
