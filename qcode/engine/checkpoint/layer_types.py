"""Which layers have experts or linear attention, as a checkpoint's header says, and their sizes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qcode.engine.checkpoint.fields import MAX_WIDTH, Fields
from qcode.engine.model_config import Architecture, ExpertsConfig, LinearAttentionConfig


def experts_from_json(
    fields: Fields, architecture: Architecture, num_layers: int
) -> ExpertsConfig | None:
    """None where every layer has an ordinary MLP."""
    if architecture not in ("qwen3_moe", "qwen3_next"):
        return None
    hybrid = architecture == "qwen3_next"
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
        norm_topk_prob=fields.flag("norm_topk_prob", hybrid),
        layers=layers,
        shared_intermediate_size=(
            fields.integer("shared_expert_intermediate_size", low=0, high=MAX_WIDTH)
            if hybrid
            else 0
        ),
    )


def experts_from_gguf(
    fields: Fields, architecture: Architecture, num_layers: int, tensor_names: Collection[str]
) -> ExpertsConfig | None:
    """None where every layer has an ordinary MLP; the tensors say which layer has experts."""
    if architecture not in ("qwen3_moe", "qwen3_next"):
        return None
    return ExpertsConfig(
        num_experts=fields.integer("expert_count", high=MAX_WIDTH),
        num_experts_per_token=fields.integer("expert_used_count"),
        intermediate_size=fields.integer("expert_feed_forward_length", high=MAX_WIDTH),
        norm_topk_prob=fields.flag("expert_weights_norm", True),
        layers=_layers_with("ffn_gate_inp.weight", num_layers, tensor_names),
        shared_intermediate_size=(
            fields.integer("expert_shared_feed_forward_length", low=0, high=MAX_WIDTH)
            if architecture == "qwen3_next"
            else 0
        ),
    )


def linear_attention_from_json(
    fields: Fields, architecture: Architecture, num_layers: int
) -> LinearAttentionConfig | None:
    """None where every layer has full attention."""
    if architecture != "qwen3_next":
        return None
    layers = _linear_layers(fields, num_layers)
    if not layers:
        return None
    return LinearAttentionConfig(
        num_key_heads=fields.integer("linear_num_key_heads", high=MAX_WIDTH),
        num_value_heads=fields.integer("linear_num_value_heads", high=MAX_WIDTH),
        key_head_dim=fields.integer("linear_key_head_dim", high=MAX_WIDTH),
        value_head_dim=fields.integer("linear_value_head_dim", high=MAX_WIDTH),
        conv_kernel_size=fields.integer("linear_conv_kernel_dim", low=2, high=MAX_WIDTH),
        layers=layers,
    )


def _linear_layers(fields: Fields, num_layers: int) -> frozenset[int]:
    """A list of each layer's kind; without one, every n-th layer has full attention."""
    kinds = fields.get("layer_types")
    if kinds is None:
        interval = fields.integer("full_attention_interval", default=4)
        return frozenset(i for i in range(num_layers) if (i + 1) % interval)
    if not isinstance(kinds, Sequence) or len(kinds) != num_layers:
        fields.fail("layer_types", f"is {kinds!r}, not one kind for each of {num_layers} layers")
    for kind in kinds:
        if kind not in ("linear_attention", "full_attention"):
            fields.fail("layer_types", f"has {kind!r}, which is no kind of layer")
    return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")


def linear_attention_from_gguf(
    fields: Fields, architecture: Architecture, num_layers: int, tensor_names: Collection[str]
) -> LinearAttentionConfig | None:
    """None where every layer has full attention; the tensors say which layer has what."""
    layers = _layers_with("ssm_conv1d.weight", num_layers, tensor_names)
    if architecture != "qwen3_next" or not layers:
        return None
    num_value_heads = fields.integer("ssm.time_step_rank", high=MAX_WIDTH)
    values = fields.integer("ssm.inner_size", high=MAX_WIDTH)
    if values % num_value_heads:
        fields.fail("ssm.inner_size", f"is {values}, not a multiple of {num_value_heads} heads")
    return LinearAttentionConfig(
        num_key_heads=fields.integer("ssm.group_count", high=MAX_WIDTH),
        num_value_heads=num_value_heads,
        key_head_dim=fields.integer("ssm.state_size", high=MAX_WIDTH),
        value_head_dim=values // num_value_heads,
        conv_kernel_size=fields.integer("ssm.conv_kernel", low=2, high=MAX_WIDTH),
        layers=layers,
    )


def _layers_with(tensor: str, num_layers: int, tensor_names: Collection[str]) -> frozenset[int]:
    return frozenset(i for i in range(num_layers) if f"blk.{i}.{tensor}" in tensor_names)
