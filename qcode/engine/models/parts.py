"""Layers that the networks share, with the weights a checkpoint has for them.

`name` is the module's in the checkpoint. All raise CheckpointError, UnsupportedModel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qcode.engine.checkpoint.checkpoint import Checkpoint
from qcode.engine.layers.attention import key_channels
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.mlp import GatedMLP
from qcode.engine.layers.moe import MixtureOfExperts, SharedExpert
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.projections import Projections
from qcode.engine.model_config import ExpertsConfig
from qcode.engine.quantization.weight_format import Weight


def load_norm(
    checkpoint: Checkpoint, name: str, size: int, dtype: torch.dtype | None = None
) -> RMSNorm:
    """Its weight in `dtype`, if it must be that."""
    weight = checkpoint.tensor(f"{name}.weight", (size,), dtype)
    return RMSNorm(weight, checkpoint.config.rms_norm_eps)


def load_qkv(checkpoint: Checkpoint, name: str) -> Projections:
    """The queries of full attention (where they have gates, each head's gate after its query),
    the keys and the values."""
    config = checkpoint.config
    heads = config.num_attention_heads * (2 if config.attention_gate else 1)
    rows = {
        "q_proj": heads * config.head_dim,
        "k_proj": config.num_key_value_heads * config.head_dim,
        "v_proj": config.num_key_value_heads * config.head_dim,
    }
    return Projections(
        [
            checkpoint.weight(f"{name}.{part}.weight", (count, config.hidden_size))
            for part, count in rows.items()
        ],
        [checkpoint.tensor(f"{name}.{part}.bias", (count,)) for part, count in rows.items()]
        if config.attention_bias
        else (),
    )


def load_key_channels(checkpoint: Checkpoint, name: str) -> Tensor | None:
    """What int8 keys of this attention are divided by; see `layers.attention.key_channels`."""
    config, part = checkpoint.config, f"{name}.k_proj.bias"
    if not config.attention_bias:
        return None
    bias = checkpoint.tensor(part, (config.num_key_value_heads * config.head_dim,))
    return key_channels(bias, config.head_dim, config.rotary_dim)


def load_attention_output(checkpoint: Checkpoint, name: str) -> Linear:
    config, name = checkpoint.config, f"{name}.o_proj"
    hidden, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    return Linear(
        checkpoint.weight(f"{name}.weight", (hidden, heads)),
        checkpoint.tensor(f"{name}.bias", (hidden,)) if config.output_bias else None,
    )


def load_feed_forward(checkpoint: Checkpoint, name: str, layer: int) -> Callable[[Tensor], Tensor]:
    """An ordinary MLP or a mixture of experts, as the config says of this layer."""
    config = checkpoint.config
    if config.experts and layer in config.experts.layers:
        return _mixture_of_experts(checkpoint, name, config.experts)
    return _mlp(checkpoint, name, config.intermediate_size)


def load_lm_head(checkpoint: Checkpoint, embedding: Weight) -> Linear:
    """`embedding` is [V, D]; its own matrix is the output's too where they are tied."""
    if checkpoint.config.tie_word_embeddings:
        return Linear(embedding)
    return Linear(checkpoint.weight("lm_head.weight", embedding.shape))


def _mlp(checkpoint: Checkpoint, name: str, wide: int) -> GatedMLP:
    narrow = checkpoint.config.hidden_size
    return GatedMLP(
        checkpoint.weight(f"{name}.gate_proj.weight", (wide, narrow)),
        checkpoint.weight(f"{name}.up_proj.weight", (wide, narrow)),
        checkpoint.weight(f"{name}.down_proj.weight", (narrow, wide)),
    )


def _mixture_of_experts(
    checkpoint: Checkpoint, name: str, config: ExpertsConfig
) -> MixtureOfExperts:
    hidden = checkpoint.config.hidden_size
    wide = (config.num_experts, config.intermediate_size, hidden)
    narrow = (config.num_experts, hidden, config.intermediate_size)
    experts = zip(
        checkpoint.experts(f"{name}.experts.gate_proj.weight", wide),
        checkpoint.experts(f"{name}.experts.up_proj.weight", wide),
        checkpoint.experts(f"{name}.experts.down_proj.weight", narrow),
        strict=True,
    )
    shared = None
    if config.shared_intermediate_size:
        shared = SharedExpert(
            checkpoint.tensor(f"{name}.shared_expert_gate.weight", (hidden,)),
            _mlp(checkpoint, f"{name}.shared_expert", config.shared_intermediate_size),
        )
    return MixtureOfExperts(
        Linear(checkpoint.weight(f"{name}.gate.weight", (config.num_experts, hidden))),
        [GatedMLP(*matrices) for matrices in experts],
        config.num_experts_per_token,
        norm_topk_prob=config.norm_topk_prob,
        shared_expert=shared,
    )
