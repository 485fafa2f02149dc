"""Reads `config.json` and `generation_config.json`, or GGUF metadata, into a ModelConfig.

The files are not trusted: a value that is missing, of the wrong type or out of bounds raises
CheckpointError, and a model that would load and then compute something else raises
UnsupportedModel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

from qcode.engine.model_config import (
    Architecture,
    ExpertsConfig,
    GenerationDefaults,
    ModelConfig,
    YarnScaling,
)
from qcode.protocol.errors import CheckpointError, UnsupportedModel

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "qwen3moe": "qwen3_moe",  # as GGUF spells it
}

MAX_LAYERS = 1024
MAX_WIDTH = 2**20
MAX_VOCABULARY = 2**22
MAX_POSITIONS = 2**26
MAX_YARN_FACTOR = 1024
MIN_ROPE_THETA = 2


def config_from_json(
    config: Mapping[str, object], generation: Mapping[str, object], source: str
) -> ModelConfig:
    """From the contents of `config.json` and `generation_config.json` (empty if there is none).

    `source` names the file in errors. Raises UnsupportedModel, CheckpointError.
    """
    fields = _Fields(config, source)
    architecture = _architecture(config.get("model_type"), source)
    _refuse_unsupported(fields)
    hidden_size = fields.integer("hidden_size", high=MAX_WIDTH)
    num_heads = fields.integer("num_attention_heads", high=MAX_WIDTH)
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    theta = rope.number("rope_theta", default=10_000.0, low=MIN_ROPE_THETA) if rope else 10_000.0
    positions = fields.integer("max_position_embeddings", high=MAX_POSITIONS)
    yarn = _yarn_from_json(rope, positions)
    output_bias = architecture != "qwen2" and fields.flag("attention_bias", False)
    return _checked(
        ModelConfig(
            architecture=architecture,
            vocab_size=fields.integer("vocab_size", high=MAX_VOCABULARY),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", high=MAX_WIDTH),
            num_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=fields.integer(
                "num_key_value_heads", default=num_heads, high=MAX_WIDTH
            ),
            head_dim=fields.integer("head_dim", default=hidden_size // num_heads, high=MAX_WIDTH),
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6),
            rope_theta=fields.number("rope_theta", default=theta, low=MIN_ROPE_THETA),
            yarn=yarn,
            context_window=_scaled_context(positions, yarn),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            attention_bias=architecture == "qwen2" or output_bias,
            output_bias=output_bias,
            experts=_experts_from_json(fields, num_layers) if "moe" in architecture else None,
            generation=_generation_from_json(_Fields(generation, source), fields),
        ),
        source,
    )


def config_from_gguf(
    metadata: Mapping[str, object], tensor_shapes: Mapping[str, tuple[int, ...]], source: str
) -> ModelConfig:
    """From GGUF metadata; what it does not say is read off the tensors (torch axis order).

    `source` names the file in errors. Raises UnsupportedModel, CheckpointError.
    """
    architecture = _architecture(metadata.get("general.architecture"), source)
    fields = _Fields(metadata, source, prefix=f"{metadata['general.architecture']}.")
    hidden_size = fields.integer("embedding_length", high=MAX_WIDTH)
    num_heads = fields.integer("attention.head_count", high=MAX_WIDTH)
    num_layers = fields.integer("block_count", high=MAX_LAYERS)
    positions = fields.integer("context_length", high=MAX_POSITIONS)
    yarn = _yarn_from_gguf(fields, positions)
    experts = _experts_from_gguf(fields, tensor_shapes) if "moe" in architecture else None
    return _checked(
        ModelConfig(
            architecture=architecture,
            vocab_size=tensor_shapes.get("token_embd.weight", (0,))[0],
            hidden_size=hidden_size,
            intermediate_size=fields.integer(
                "feed_forward_length", default=1 if experts else None, high=MAX_WIDTH
            ),
            num_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=fields.integer(
                "attention.head_count_kv", default=num_heads, high=MAX_WIDTH
            ),
            head_dim=fields.integer(
                "attention.key_length", default=hidden_size // num_heads, high=MAX_WIDTH
            ),
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            rope_theta=fields.number("rope.freq_base", default=10_000.0, low=MIN_ROPE_THETA),
            yarn=yarn,
            context_window=_scaled_context(positions, yarn),
            tie_word_embeddings="output.weight" not in tensor_shapes,
            attention_bias="blk.0.attn_q.bias" in tensor_shapes,
            output_bias="blk.0.attn_output.bias" in tensor_shapes,
            experts=experts,
            generation=_generation_from_gguf(_Fields(metadata, source)),
        ),
        source,
    )


class _Fields:
    """Typed access to what a file says; a missing or impossible value raises CheckpointError."""

    def __init__(self, values: Mapping[str, object], source: str, prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self.source = source

    def fail(self, key: str, message: str) -> NoReturn:
        raise CheckpointError(f"{self.source}: {self._prefix}{key} {message}")

    def get(self, key: str) -> object:
        return self._values.get(self._prefix + key)

    def integer(
        self, key: str, *, default: int | None = None, low: int = 1, high: int = 2**31
    ) -> int:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.fail(key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"is {value!r}, not a number from {low} to {high}")
        return value

    def number(
        self, key: str, *, default: float | None = None, low: float = 1e-30, high: float = 1e30
    ) -> float:
        value = self.optional_number(key, low=low, high=high)
        if value is not None:
            return value
        if default is None:
            self.fail(key, "is missing")
        return default

    def optional_number(self, key: str, *, low: float, high: float) -> float | None:
        """A number within bounds, or None where the file has none."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"is {value!r}, not a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"is {value!r}, not true or false")
        return value

    def integers(self, key: str) -> frozenset[int]:
        """The numbers of a list, of a single number, or none."""
        value = self.get(key)
        if value is None:
            return frozenset()
        items = value if isinstance(value, Sequence) else (value,)
        if not all(isinstance(item, int) for item in items):
            self.fail(key, f"is {value!r}, not whole numbers")
        return frozenset(cast("Sequence[int]", items))

    def section(self, key: str) -> _Fields | None:
        """An object inside this one, or None where it is missing or empty."""
        value = self.get(key)
        if not value:
            return None
        if not isinstance(value, Mapping):
            self.fail(key, f"is {value!r}, not an object")
        return _Fields(value, self.source, prefix="")


def _architecture(name: object, source: str) -> Architecture:
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise UnsupportedModel(
        f"{source}: the architecture {name!r} is not one the engine runs",
        hint="The engine runs Qwen2, Qwen2.5, Qwen3 and Qwen3-MoE models, Qwen2.5-Coder and "
        "Qwen3-Coder among them. Serve others with vLLM, SGLang or llama.cpp and give qcode "
        "their URL.",
    )


def _refuse_unsupported(fields: _Fields) -> None:
    """What would load and then compute something else than the model."""
    if fields.get("quantization_config"):
        raise UnsupportedModel(
            f"{fields.source}: quantised safetensors checkpoints cannot be read yet",
            hint="Use the model's bfloat16 release or a GGUF file of it.",
        )
    if fields.flag("use_sliding_window", False):
        raise UnsupportedModel(f"{fields.source}: sliding window attention is not supported")
    if fields.get("hidden_act") not in (None, "silu"):
        raise UnsupportedModel(
            f"{fields.source}: the activation {fields.get('hidden_act')!r} is not supported"
        )


def _checked(config: ModelConfig, source: str) -> ModelConfig:
    """Relations between the values that hold in every model of these architectures."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{source}: {config.num_attention_heads} query heads cannot share "
            f"{config.num_key_value_heads} key heads"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{source}: head_dim {config.head_dim} is odd")
    experts = config.experts
    if experts and experts.num_experts_per_token > experts.num_experts:
        raise CheckpointError(
            f"{source}: {experts.num_experts_per_token} of {experts.num_experts} experts per token"
        )
    return config


def _experts_from_json(fields: _Fields, num_layers: int) -> ExpertsConfig | None:
    # transformers 5 writes num_local_experts, all published files have num_experts.
    key = "num_experts" if fields.get("num_experts") is not None else "num_local_experts"
    num_experts = fields.integer(key, low=0, high=MAX_WIDTH)
    step = fields.integer("decoder_sparse_step", default=1)
    dense = fields.integers("mlp_only_layers")
    layers = frozenset(
        i for i in range(num_layers) if i not in dense and num_experts and (i + 1) % step == 0
    )
    if not layers:
        return None
    return ExpertsConfig(
        num_experts=num_experts,
        num_experts_per_token=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer("moe_intermediate_size", high=MAX_WIDTH),
        norm_topk_prob=fields.flag("norm_topk_prob", False),
        layers=layers,
    )


def _experts_from_gguf(
    fields: _Fields, tensor_shapes: Mapping[str, tuple[int, ...]]
) -> ExpertsConfig:
    num_layers = fields.integer("block_count", high=MAX_LAYERS)
    return ExpertsConfig(
        num_experts=fields.integer("expert_count", high=MAX_WIDTH),
        num_experts_per_token=fields.integer("expert_used_count"),
        intermediate_size=fields.integer("expert_feed_forward_length", high=MAX_WIDTH),
        norm_topk_prob=fields.flag("expert_weights_norm", True),
        layers=frozenset(
            i for i in range(num_layers) if f"blk.{i}.ffn_gate_inp.weight" in tensor_shapes
        ),
    )


def _generation_from_json(generation: _Fields, config: _Fields) -> GenerationDefaults:
    greedy = not generation.flag("do_sample", True)
    return GenerationDefaults(
        temperature=0.0 if greedy else generation.optional_number("temperature", low=0, high=100),
        top_p=generation.optional_number("top_p", low=0, high=1),
        top_k=None if generation.get("top_k") is None else generation.integer("top_k", low=0),
        repetition_penalty=generation.optional_number("repetition_penalty", low=0.01, high=100),
        eos_ids=generation.integers("eos_token_id") | config.integers("eos_token_id"),
    )


def _generation_from_gguf(fields: _Fields) -> GenerationDefaults:
    top_k = fields.get("general.sampling.top_k")
    return GenerationDefaults(
        temperature=fields.optional_number("general.sampling.temp", low=0, high=100),
        top_p=fields.optional_number("general.sampling.top_p", low=0, high=1),
        top_k=None if top_k is None else fields.integer("general.sampling.top_k", low=0),
        repetition_penalty=fields.optional_number(
            "general.sampling.penalty_repeat", low=0.01, high=100
        ),
        eos_ids=fields.integers("tokenizer.ggml.eos_token_id")
        | fields.integers("tokenizer.ggml.eot_token_id"),
    )


def _yarn_from_json(rope: _Fields | None, positions: int) -> YarnScaling | None:
    kind = rope and (rope.get("rope_type") or rope.get("type"))
    if rope is None or kind in (None, "default"):
        return None
    if kind != "yarn":
        raise UnsupportedModel(f"{rope.source}: rope scaling {kind!r} is not supported")
    original = rope.integer(
        "original_max_position_embeddings", default=positions, high=MAX_POSITIONS
    )
    factor = rope.number("factor", default=positions / original, low=1, high=MAX_YARN_FACTOR)
    return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=_attention_factor(rope, factor),
        beta_fast=rope.number("beta_fast", default=32.0),
        beta_slow=rope.number("beta_slow", default=1.0),
        truncate=rope.flag("truncate", True),
    )


def _attention_factor(rope: _Fields, factor: float) -> float:
    given = rope.optional_number("attention_factor", low=0.01, high=100)
    if given is not None:
        return given
    mscale = rope.optional_number("mscale", low=0, high=100)
    all_dim = rope.optional_number("mscale_all_dim", low=0, high=100)
    if mscale and all_dim:
        return yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim)
    return yarn_magnitude(factor)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """How much YaRN raises the length of rotated queries and keys."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_from_gguf(fields: _Fields, positions: int) -> YarnScaling | None:
    kind = fields.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind != "yarn":
        raise UnsupportedModel(f"{fields.source}: rope scaling {kind!r} is not supported")
    factor = fields.number("rope.scaling.factor", low=1, high=MAX_YARN_FACTOR)
    return YarnScaling(
        factor=factor,
        original_context=fields.integer(
            "rope.scaling.original_context_length", default=positions, high=MAX_POSITIONS
        ),
        attention_factor=yarn_magnitude(factor),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", default=1.0),
    )


def _scaled_context(positions: int, yarn: YarnScaling | None) -> int:
    """Some files give the scaled length as their own, some the original one."""
    return max(positions, int(yarn.factor * yarn.original_context)) if yarn else positions
