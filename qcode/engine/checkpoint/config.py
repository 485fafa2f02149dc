"""Reads `config.json` and `generation_config.json`, or GGUF metadata, into a ModelConfig.

The files are not trusted: a value that is missing, of the wrong type or out of bounds raises
CheckpointError, and a model that would load and then compute something else raises
UnsupportedModel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qcode.engine.checkpoint.fields import (
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Fields,
)
from qcode.engine.checkpoint.layer_types import (
    experts_from_gguf,
    experts_from_json,
    linear_attention_from_gguf,
    linear_attention_from_json,
)
from qcode.engine.model_config import Architecture, GenerationDefaults, ModelConfig, YarnScaling
from qcode.protocol.errors import CheckpointError, UnsupportedModel

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "qwen3moe": "qwen3_moe",  # these two as GGUF spells them
    "qwen3next": "qwen3_next",
}

MAX_YARN_FACTOR = 1024
MIN_ROPE_THETA = 2

_DEFAULT_ROTARY_SHARE: Mapping[Architecture, float] = {"qwen3_next": 0.25}
"""Of a head's dimensions, where the file does not say; elsewhere all of them are rotated."""


def config_from_json(
    config: Mapping[str, object], generation: Mapping[str, object], source: str
) -> ModelConfig:
    """From the contents of `config.json` and `generation_config.json` (empty if there is none).

    `source` names the file in errors. Raises UnsupportedModel, CheckpointError.
    """
    fields = Fields(config, source)
    architecture = _architecture(config.get("model_type"), source)
    _refuse_unsupported(fields)
    hidden_size = fields.integer("hidden_size", high=MAX_WIDTH)
    num_heads = fields.integer("num_attention_heads", high=MAX_WIDTH)
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    rope = fields.section("rope_scaling") or fields.section("rope_parameters")
    theta = fields.number("rope_theta", default=10_000.0, low=MIN_ROPE_THETA)
    if rope:
        theta = rope.number("rope_theta", default=theta, low=MIN_ROPE_THETA)
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
            rope_theta=theta,
            yarn=yarn,
            context_window=_scaled_context(positions, yarn),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            attention_bias=architecture == "qwen2" or output_bias,
            output_bias=output_bias,
            qk_norm=architecture != "qwen2",
            experts=experts_from_json(fields, architecture, num_layers),
            generation=_generation_from_json(Fields(generation, source), fields),
            linear_attention=linear_attention_from_json(fields, architecture, num_layers),
            partial_rotary_factor=_rotary_share(fields, rope, architecture),
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
    fields = Fields(metadata, source, prefix=f"{metadata['general.architecture']}.")
    hidden_size = fields.integer("embedding_length", high=MAX_WIDTH)
    num_heads = fields.integer("attention.head_count", high=MAX_WIDTH)
    # Layers that predict several tokens ahead come last, and are not run.
    num_layers = fields.integer("block_count", high=MAX_LAYERS)
    num_layers -= fields.integer("nextn_predict_layers", default=0, low=0, high=num_layers - 1)
    head_dim = fields.integer(
        "attention.key_length", default=hidden_size // num_heads, high=MAX_WIDTH
    )
    rotary_share = _DEFAULT_ROTARY_SHARE.get(architecture, 1.0)
    rotary_dim = fields.integer("rope.dimension_count", default=int(head_dim * rotary_share))
    positions = fields.integer("context_length", high=MAX_POSITIONS)
    yarn = _yarn_from_gguf(fields, positions)
    attention_bias = any(name.endswith(".attn_q.bias") for name in tensor_shapes)
    experts = experts_from_gguf(fields, architecture, num_layers, tensor_shapes)
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
            head_dim=head_dim,
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            rope_theta=fields.number("rope.freq_base", default=10_000.0, low=MIN_ROPE_THETA),
            yarn=yarn,
            context_window=_scaled_context(positions, yarn),
            tie_word_embeddings="output.weight" not in tensor_shapes,
            attention_bias=attention_bias,
            output_bias=any(name.endswith(".attn_output.bias") for name in tensor_shapes),
            # Attention has biases, as Qwen2's, or norms, as Qwen3's: without either a file is
            # incomplete, and the norms will be missed.
            qk_norm=not attention_bias
            or any(name.endswith(".attn_q_norm.weight") for name in tensor_shapes),
            experts=experts,
            generation=_generation_from_gguf(Fields(metadata, source)),
            linear_attention=linear_attention_from_gguf(
                fields, architecture, num_layers, tensor_shapes
            ),
            partial_rotary_factor=rotary_dim / head_dim,
        ),
        source,
    )


def _architecture(name: object, source: str) -> Architecture:
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise UnsupportedModel(
        f"{source}: the architecture {name!r} is not one the engine runs",
        hint="The engine runs Qwen2, Qwen2.5, Qwen3, Qwen3-MoE and Qwen3-Next models, "
        "Qwen2.5-Coder and Qwen3-Coder among them. Serve others with vLLM, SGLang or llama.cpp "
        "and give qcode their URL.",
    )


def _refuse_unsupported(fields: Fields) -> None:
    """What would load and then compute something else than the model."""
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
    if config.rotary_dim % 2 or not 0 < config.rotary_dim <= config.head_dim:
        raise CheckpointError(
            f"{source}: {config.rotary_dim} of {config.head_dim} dimensions cannot be rotated"
        )
    linear = config.linear_attention
    if linear and linear.num_value_heads % linear.num_key_heads:
        raise CheckpointError(
            f"{source}: {linear.num_value_heads} value heads cannot share "
            f"{linear.num_key_heads} key heads in linear attention"
        )
    experts = config.experts
    if experts and experts.num_experts_per_token > experts.num_experts:
        raise CheckpointError(
            f"{source}: {experts.num_experts_per_token} of {experts.num_experts} experts per token"
        )
    return config


def _generation_from_json(generation: Fields, config: Fields) -> GenerationDefaults:
    greedy = not generation.flag("do_sample", True)
    return GenerationDefaults(
        temperature=0.0 if greedy else generation.optional_number("temperature", low=0, high=100),
        top_p=generation.optional_number("top_p", low=0, high=1),
        top_k=None if generation.get("top_k") is None else generation.integer("top_k", low=0),
        repetition_penalty=generation.optional_number("repetition_penalty", low=0.01, high=100),
        eos_ids=generation.integers("eos_token_id") | config.integers("eos_token_id"),
    )


def _generation_from_gguf(fields: Fields) -> GenerationDefaults:
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


def _rotary_share(fields: Fields, rope: Fields | None, architecture: Architecture) -> float:
    """Among the rope parameters in newer files, at the top level in older ones."""
    if architecture not in _DEFAULT_ROTARY_SHARE:
        return 1.0
    default = _DEFAULT_ROTARY_SHARE[architecture]
    share = fields.number("partial_rotary_factor", default=default, high=1)
    return rope.number("partial_rotary_factor", default=share, high=1) if rope else share


def _yarn_from_json(rope: Fields | None, positions: int) -> YarnScaling | None:
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


def _attention_factor(rope: Fields, factor: float) -> float:
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


def _yarn_from_gguf(fields: Fields, positions: int) -> YarnScaling | None:
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
