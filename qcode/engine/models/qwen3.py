"""The dense and mixture-of-experts transformer of the Qwen2 and Qwen3 families.

N = tokens of this step, D = hidden size, H = query heads, K = key and value heads,
V = vocabulary. The checkpoint decides what a layer has: biases on its projections (Qwen2), norms
on queries and keys (Qwen3), experts (Qwen3-MoE).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qcode.engine import kernels
from qcode.engine.checkpoint.checkpoint import Checkpoint
from qcode.engine.layers.attention import AttentionInputs, cached_attention
from qcode.engine.layers.cache import LayerCache, PagedKV
from qcode.engine.layers.embedding import Embedding
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.moe import MixtureOfExperts
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.projections import Projections
from qcode.engine.layers.rotary import RotaryEmbedding
from qcode.engine.model_config import ExpertsConfig
from qcode.engine.quantization.weight_format import Weight


class Qwen3:
    """Token ids in, logits out. Holds weights only: all state of a step is in its arguments."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Activations have `dtype`. `progress` is told the fraction of layers that are loaded.

        Raises CheckpointError, UnsupportedModel.
        """
        config = self.config = checkpoint.config
        table = (config.vocab_size, config.hidden_size)
        embedding = checkpoint.weight("model.embed_tokens.weight", table)
        self.embed_tokens = Embedding(embedding, dtype)
        self.rotary = RotaryEmbedding(config.head_dim, config.rope_theta, config.yarn, device)
        self.layers = []
        for index in range(config.num_layers):
            self.layers.append(DecoderLayer(checkpoint, index))
            if progress:
                progress((index + 1) / config.num_layers)
        self.norm = _norm(checkpoint, "model.norm", config.hidden_size)
        tied = config.tie_word_embeddings
        self.lm_head = Linear(embedding if tied else checkpoint.weight("lm_head.weight", table))

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        """ids [N] int64 -> normalised hidden states [N, D]; updates each layer's cache."""
        x = self.embed_tokens(ids)
        rotation = self.rotary(inputs.positions)
        for layer, cache in zip(self.layers, caches, strict=True):
            assert isinstance(cache, PagedKV)
            x = layer(x, rotation, inputs, cache)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, D] -> [R, V] float32."""
        return self.lm_head(hidden).float()


class DecoderLayer:
    """Attention, then a feed-forward network, each added to what it reads."""

    def __init__(self, checkpoint: Checkpoint, index: int) -> None:
        config, name = checkpoint.config, f"model.layers.{index}"
        self.input_layernorm = _norm(checkpoint, f"{name}.input_layernorm", config.hidden_size)
        self.self_attn = Attention(checkpoint, f"{name}.self_attn")
        self.post_attention_layernorm = _norm(
            checkpoint, f"{name}.post_attention_layernorm", config.hidden_size
        )
        self.mlp: Callable[[Tensor], Tensor]
        if config.experts and index in config.experts.layers:
            self.mlp = _mixture_of_experts(checkpoint, f"{name}.mlp", config.experts)
        else:
            self.mlp = _dense_mlp(checkpoint, f"{name}.mlp")

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: PagedKV,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, inputs, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention:
    """Grouped-query attention; Qwen3 normalises each query and key head before rotating it."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        config = checkpoint.config
        hidden, self.head_dim = config.hidden_size, config.head_dim
        rows = {
            "q_proj": config.num_attention_heads * self.head_dim,
            "k_proj": config.num_key_value_heads * self.head_dim,
            "v_proj": config.num_key_value_heads * self.head_dim,
        }
        self.qkv_proj = Projections(
            [checkpoint.weight(f"{name}.{p}.weight", (n, hidden)) for p, n in rows.items()],
            [checkpoint.tensor(f"{name}.{p}.bias", (n,)) for p, n in rows.items()]
            if config.attention_bias
            else (),
        )
        self.o_proj = Linear(
            checkpoint.weight(f"{name}.o_proj.weight", (hidden, rows["q_proj"])),
            checkpoint.tensor(f"{name}.o_proj.bias", (hidden,)) if config.output_bias else None,
        )
        self.qk_norms = (
            tuple(_norm(checkpoint, f"{name}.{p}_norm", self.head_dim) for p in "qk")
            if config.qk_norm
            else None
        )

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: PagedKV,
    ) -> Tensor:
        q, k, v = (part.view(len(x), -1, self.head_dim) for part in self.qkv_proj(x))
        if self.qk_norms:
            q_norm, k_norm = self.qk_norms
            q, k = q_norm(q), k_norm(k)
        q, k = kernels.apply_rotary(q, *rotation), kernels.apply_rotary(k, *rotation)
        attended = cached_attention(q, k, v, cache, inputs, scale=self.head_dim**-0.5)
        return self.o_proj(attended.flatten(1))


class GatedMLP:
    """The SwiGLU feed-forward network, also the form of an expert."""

    def __init__(self, gate_proj: Weight, up_proj: Weight, down_proj: Weight) -> None:
        self.gate_up_proj = Projections([gate_proj, up_proj])
        self.down_proj = Linear(down_proj)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x)
        return self.down_proj(kernels.silu_and_mul(gate, up))


def _dense_mlp(checkpoint: Checkpoint, name: str) -> GatedMLP:
    config = checkpoint.config
    wide, narrow = config.intermediate_size, config.hidden_size
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
    return MixtureOfExperts(
        Linear(checkpoint.weight(f"{name}.gate.weight", (config.num_experts, hidden))),
        [GatedMLP(*matrices) for matrices in experts],
        config.num_experts_per_token,
        norm_topk_prob=config.norm_topk_prob,
    )


def _norm(checkpoint: Checkpoint, name: str, size: int) -> RMSNorm:
    return RMSNorm(checkpoint.tensor(f"{name}.weight", (size,)), checkpoint.config.rms_norm_eps)
