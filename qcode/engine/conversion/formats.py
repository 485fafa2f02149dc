"""The formats a model can be written in, and which tensor gets which type.

Our rules for GGUF mixtures. Vectors, routers and the other small tensors that steer a network stay
float32. The output matrix, which is the embedding where the two are one, has at least Q6_K: an
error there reaches every token directly. In the `_m` formats, so do the value and down projections
of the first and the last eighth of the layers and of every third layer between: what they make is
added to the residual stream as it is. A row that is not whole blocks of 256 falls back to the
nearest type with blocks of 32, and one that is not whole blocks of 32 to float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """One choice of `--format`."""

    name: str
    about: str
    bits: float
    """For each weight of a whole model, if it is a large one."""
    ggml_type: GgmlType | None = None
    """Of ordinary matrices in a GGUF file; None where this format is for safetensors only."""
    mixed: bool = False
    """Whether some value and down projections have Q6_K."""
    file_type: int = 0
    """What `general.file_type` says: the mixture's number in llama.cpp."""
    dtype: str | None = None
    """Of matrices in safetensors files; None where this format is for GGUF only."""


FORMATS: Mapping[str, OutputFormat] = {
    output.name: output
    for output in (
        OutputFormat(
            name="q4_k_m",
            about="4 bits, 6 where errors weigh most; the usual choice",
            bits=4.9,
            ggml_type=GgmlType.Q4_K,
            mixed=True,
            file_type=15,
        ),
        OutputFormat(
            name="q4_k_s",
            about="4 bits nearly everywhere; the smallest",
            bits=4.6,
            ggml_type=GgmlType.Q4_K,
            file_type=14,
        ),
        OutputFormat(
            name="q4_0",
            about="4 bits with plain scales, for programs that know no other",
            bits=4.6,
            ggml_type=GgmlType.Q4_0,
            file_type=2,
        ),
        OutputFormat(
            name="q5_k_m",
            about="5 bits, 6 where errors weigh most",
            bits=5.7,
            ggml_type=GgmlType.Q5_K,
            mixed=True,
            file_type=17,
        ),
        OutputFormat(
            name="q6_k",
            about="6 bits; hard to tell from the original",
            bits=6.6,
            ggml_type=GgmlType.Q6_K,
            file_type=18,
        ),
        OutputFormat(
            name="q8_0",
            about="8 bits; as good as the original",
            bits=8.5,
            ggml_type=GgmlType.Q8_0,
            file_type=7,
        ),
        OutputFormat(
            name="fp8",
            about="8-bit floats in blocks of 128x128, for GPUs; a folder of safetensors",
            bits=8.2,
            dtype="F8_E4M3",
        ),
        OutputFormat(
            name="bf16",
            about="16 bits, as models are published",
            bits=16.0,
            ggml_type=GgmlType.BF16,
            file_type=32,
            dtype="BF16",
        ),
        OutputFormat(
            name="f16",
            about="16 bits, with more digits and less range",
            bits=16.0,
            ggml_type=GgmlType.F16,
            file_type=1,
            dtype="F16",
        ),
        OutputFormat(
            name="f32",
            about="32 bits; exact, for comparisons",
            bits=32.0,
            ggml_type=GgmlType.F32,
            file_type=0,
            dtype="F32",
        ),
    )
}

STEERING_MODULES = ("mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_ba")
"""Small matrices that are never quantised: they choose experts, gate and forget."""

_FALLBACK = {
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}
_SIX_BITS_OR_MORE = (
    GgmlType.Q6_K,
    GgmlType.Q8_0,
    GgmlType.BF16,
    GgmlType.F16,
    GgmlType.F32,
)


def steers(name: str) -> bool:
    """Whether the matrix of this name is one of STEERING_MODULES."""
    return name.removesuffix(".weight").endswith(STEERING_MODULES)


def ggml_type_of(
    output: OutputFormat, name: str, width: int, *, num_layers: int, tied: bool
) -> GgmlType:
    """The type of the matrix called `name`, whose rows have `width` values, in a GGUF file."""
    assert output.ggml_type is not None
    if steers(name):
        return GgmlType.F32
    kind = output.ggml_type
    is_output = name == ("model.embed_tokens.weight" if tied else "lm_head.weight")
    weighs_more = is_output or (output.mixed and _weighs_more(name, num_layers))
    if weighs_more and kind not in _SIX_BITS_OR_MORE:
        kind = GgmlType.Q6_K
    for candidate in (kind, _FALLBACK.get(kind, GgmlType.F16)):
        if width % BLOCK_LAYOUTS[candidate].block_size == 0:
            return candidate
    return GgmlType.F16


def _weighs_more(name: str, num_layers: int) -> bool:
    if not name.endswith(("v_proj.weight", "down_proj.weight")):
        return False
    layer = int(name.removeprefix("model.layers.").partition(".")[0])
    edge = max(1, num_layers // 8)
    return layer < edge or layer >= num_layers - edge or (layer - edge) % 3 == 2
