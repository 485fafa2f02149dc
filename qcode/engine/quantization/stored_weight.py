"""From the tensors that files hold for a linear layer to its weight.

Which format a module has is seen from the names and dtypes of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qcode.engine.quantization.awq import awq_weight
from qcode.engine.quantization.eight_bit import (
    FP8_WEIGHT_DTYPES,
    INT8_WEIGHT_DTYPES,
    eight_bit_name,
    eight_bit_weight,
)
from qcode.engine.quantization.fp4 import mxfp4_weight, nvfp4_weight
from qcode.engine.quantization.gptq import gptq_weight
from qcode.engine.quantization.packed_integers import integer_name, packed_integer_weight
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import PACKED_PARTS, StoredModule
from qcode.engine.quantization.weight_format import DecodedWeight

FLOAT_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

_Maker = Callable[[StoredModule, tuple[int, int], QuantizationScheme], DecodedWeight]


def packed_weight(
    module: StoredModule, shape: tuple[int, int], scheme: QuantizationScheme
) -> DecodedWeight:
    """The matrix `shape` [out, in] of a module whose values are not plain floats.

    Raises CheckpointError naming file and tensor, UnsupportedModel.
    """
    _, make = _format(module, scheme)
    if make is None:
        part = next(part for part in PACKED_PARTS if part in module)
        stored = str(module.parts[part].dtype).removeprefix("torch.")
        module.fail(part, f"is stored as {stored}, in no format that config.json tells of")
    return make(module, shape, scheme)


def format_name(module: StoredModule, scheme: QuantizationScheme) -> str:
    """For people: "BF16", "FP8 128x128", "INT4 group 128", "NVFP4"; from the header alone."""
    name, _ = _format(module, scheme)
    return name


def _format(module: StoredModule, scheme: QuantizationScheme) -> tuple[str, _Maker | None]:
    if "qweight" in module:
        if scheme.method == "awq":
            return integer_name("AWQ INT", scheme), awq_weight
        if scheme.method == "gptq":
            return integer_name("GPTQ INT", scheme), gptq_weight
        return "unknown", None
    part = "weight_packed" if "weight_packed" in module else "weight"
    dtype = module.parts[part].dtype
    if part == "weight_packed" and dtype == torch.int32:
        return integer_name("INT", scheme), packed_integer_weight
    if part == "weight_packed" and dtype == torch.uint8:
        if "weight_global_scale" in module:
            return "NVFP4", nvfp4_weight
        return "MXFP4", mxfp4_weight
    if part == "weight" and dtype == torch.uint8 and "weight_scale_2" in module:
        return "NVFP4", nvfp4_weight
    if part == "weight" and dtype in FP8_WEIGHT_DTYPES | INT8_WEIGHT_DTYPES:
        return eight_bit_name(module, scheme), eight_bit_weight
    return FLOAT_NAMES.get(dtype, str(dtype).removeprefix("torch.")), None
