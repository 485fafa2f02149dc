"""Reads how weights are packed from `config.json` or `hf_quant_config.json`.

Only what the tensors do not say themselves is taken from there. Methods and variants that are not
known are refused: guessing would compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from qcode.engine.checkpoint.fields import MAX_WIDTH, Fields
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.quantization import gptq, packed_integers
from qcode.engine.quantization.awq import BITS as AWQ_BITS
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.protocol.errors import UnsupportedModel

_Blocks = frozenset[tuple[int, int]]

_COMPRESSED_TENSORS_FORMATS = frozenset(
    {
        None,
        "dense",
        "float-quantized",
        "int-quantized",
        "naive-quantized",
        "pack-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
        "mixed-precision",
    }
)
_MODELOPT_ALGORITHMS = frozenset({None, "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4"})


def quantization_scheme(directory: Path, config: Mapping[str, object]) -> QuantizationScheme:
    """The scheme of a checkpoint with this `config.json`.

    Raises UnsupportedModel for a method or variant that is not known, CheckpointError.
    """
    fields = Fields(config, str(directory / "config.json"))
    # Files of the first compressed-tensors versions have the older name.
    quantization = fields.section("quantization_config") or fields.section("compression_config")
    if quantization is None:
        path = directory / "hf_quant_config.json"
        modelopt = Fields(read_json(path, optional=True), str(path)).section("quantization")
        return _modelopt(modelopt) if modelopt else QuantizationScheme()
    method = quantization.get("quant_method")
    read = _METHODS.get(method) if isinstance(method, str) else None
    if read is None:
        _refuse(quantization, f"weights quantised by {method!r}")
    return read(quantization)


def _refuse(fields: Fields, what: str) -> NoReturn:
    raise UnsupportedModel(
        f"{fields.source}: {what} cannot be read",
        hint="Use the model's BF16, FP8, AWQ or GPTQ release, or a GGUF file of it.",
    )


def _fp8(fields: Fields) -> QuantizationScheme:
    return QuantizationScheme(method="fp8", blocks=_pair(fields, "weight_block_size"))


def _compressed_tensors(fields: Fields) -> QuantizationScheme:
    blocks: _Blocks = frozenset()
    num_bits: frozenset[int] = frozenset()
    sparsity = fields.section("sparsity_config")
    if sparsity and sparsity.get("format") not in (None, "dense"):
        _refuse(fields, f"sparse weights of the format {sparsity.get('format')!r}")
    if fields.get("transform_config"):
        _refuse(fields, "weights that are rotated (transform_config)")
    for part in (fields, *_sections(fields, "config_groups")):
        if part.get("format") not in _COMPRESSED_TENSORS_FORMATS:
            _refuse(fields, f"compressed-tensors weights of the format {part.get('format')!r}")
        weights = part.section("weights")
        if weights is None:
            continue
        blocks |= _group_size(weights) | _pair(weights, "block_structure")
        if weights.get("type") in (None, "int"):
            num_bits |= {weights.integer("num_bits", default=8)}
    if not num_bits <= packed_integers.WIDTHS:
        _refuse(fields, f"integers of {min(num_bits - packed_integers.WIDTHS)} bits")
    return QuantizationScheme(method="compressed-tensors", blocks=blocks, num_bits=num_bits)


def _modelopt(fields: Fields) -> QuantizationScheme:
    mixed = fields.get("quant_algo") == "MIXED_PRECISION"
    blocks: _Blocks = frozenset()
    for part in _sections(fields, "quantized_layers") if mixed else [fields]:
        if part.get("quant_algo") not in _MODELOPT_ALGORITHMS:
            _refuse(fields, f"ModelOpt weights of the kind {part.get('quant_algo')!r}")
        if part.get("quant_algo") == "NVFP4":
            blocks |= _group_size(part)
    return QuantizationScheme(method="modelopt", blocks=blocks)


def _awq(fields: Fields) -> QuantizationScheme:
    layout = str(fields.get("version") or fields.get("format") or "gemm").lower()
    bits = fields.integer("bits", default=AWQ_BITS)
    if layout != "gemm" or bits != AWQ_BITS:
        _refuse(fields, f"{bits}-bit AWQ weights in the layout {layout!r}")
    return QuantizationScheme(
        method="awq",
        num_bits=frozenset({AWQ_BITS}),
        blocks=_group_size(fields, "group_size") or _group_size(fields, "q_group_size"),
    )


def _gptq(fields: Fields) -> QuantizationScheme:
    version = fields.get("checkpoint_format") or fields.get("format") or "gptq"
    if version not in ("gptq", "gptq_v2") or fields.get("is_marlin_format"):
        _refuse(fields, f"GPTQ weights of the version {version!r}")
    bits, blocks = fields.integer("bits"), _group_size(fields)
    # Rules for single modules; their tensors show which of these they have.
    overrides = _sections(fields, "dynamic")
    num_bits = frozenset({bits, *(rule.integer("bits", default=bits) for rule in overrides)})
    for rule in overrides:
        blocks |= _group_size(rule)
    if not num_bits <= gptq.WIDTHS:
        _refuse(fields, f"GPTQ weights of {min(num_bits - gptq.WIDTHS)} bits")
    return QuantizationScheme(
        method="gptq",
        num_bits=num_bits,
        blocks=blocks,
        symmetric=fields.flag("sym", False),
        zeros_minus_one=version == "gptq",
        reordered=fields.flag("desc_act", False),
    )


def _sections(fields: Fields, key: str) -> list[Fields]:
    """The objects in the object `key`, whatever their names."""
    values = fields.get(key)
    if not isinstance(values, Mapping):
        return []
    return [Fields(value, fields.source) for value in values.values() if isinstance(value, Mapping)]


def _group_size(fields: Fields, key: str = "group_size") -> _Blocks:
    """None and -1 mean one scale for each row."""
    if fields.get(key) in (None, -1):
        return frozenset()
    return frozenset({(1, fields.integer(key, high=MAX_WIDTH))})


def _pair(fields: Fields, key: str) -> _Blocks:
    """Rows and columns of a block, as a list or as "128x128"."""
    value = fields.get(key)
    if value is None:
        return frozenset()
    sizes = value.split("x") if isinstance(value, str) else value
    if not isinstance(sizes, Sequence) or len(sizes) != 2:
        fields.fail(key, f"is {value!r}, not the rows and columns of a block")
    rows, columns = (_size(fields, key, size) for size in sizes)
    return frozenset({(rows, columns)})


def _size(fields: Fields, key: str, size: object) -> int:
    number = int(size) if isinstance(size, str) and size.isdecimal() else size
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_WIDTH:
        fields.fail(key, f"gives the size {size!r}, not a number from 1 to {MAX_WIDTH}")
    return number


_METHODS: Mapping[str, Callable[[Fields], QuantizationScheme]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "awq": _awq,
    "gptq": _gptq,
}
