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
from qcode.engine.kernels.library import installed
from qcode.engine.layers.attention import AttentionInputs, cached_attention
from qcode.engine.layers.cache import LayerCache, PagedKV
from qcode.engine.layers.embedding import Embedding
from qcode.engine.layers.fused import LayerStack, layer_parts
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.rotary import RotaryEmbedding
from qcode.engine.models.parts import (
    load_attention_output,
    load_feed_forward,
    load_key_channels,
    load_lm_head,
    load_norm,
    load_qkv,
)


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
        self.rotary = RotaryEmbedding(config.rotary_dim, config.rope_theta, config.yarn, device)
        layers = []
        for index in range(config.num_layers):
            layers.append(DecoderLayer(checkpoint, index, dtype))
            if progress:
                progress((index + 1) / config.num_layers)
        self.layers = LayerStack(layers, installed())
        self.key_channels = [layer.self_attn.key_channels for layer in layers]
        self.norm = load_norm(checkpoint, "model.norm", config.hidden_size)
        self.lm_head = load_lm_head(checkpoint, embedding)

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        """ids [N] int64 -> normalised hidden states [N, D]; updates each layer's cache."""
        x = self.embed_tokens(ids)
        rotation = self.rotary(inputs.positions)
        return self.norm(self.layers(x, rotation, inputs, caches))

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, D] -> [R, V] float32."""
        return self.lm_head(hidden).float()


class DecoderLayer:
    """Attention, then a feed-forward network, each added to what it reads."""

    def __init__(self, checkpoint: Checkpoint, index: int, dtype: torch.dtype) -> None:
        size, name = checkpoint.config.hidden_size, f"model.layers.{index}"
        self.input_layernorm = load_norm(checkpoint, f"{name}.input_layernorm", size)
        self.self_attn = Attention(checkpoint, f"{name}.self_attn")
        self.post_attention_layernorm = load_norm(
            checkpoint, f"{name}.post_attention_layernorm", size
        )
        self.mlp = load_feed_forward(checkpoint, f"{name}.mlp", index)
        self.parts = layer_parts(
            input_norm=self.input_layernorm,
            qkv_proj=self.self_attn.qkv_proj,
            o_proj=self.self_attn.o_proj,
            qk_norms=self.self_attn.qk_norms,
            head_dim=self.self_attn.head_dim,
            is_gated=False,
            post_norm=self.post_attention_layernorm,
            feed_forward=self.mlp,
            dtype=dtype,
        )

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor:
        assert isinstance(cache, PagedKV)
        x = x + self.self_attn(self.input_layernorm(x), rotation, inputs, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention:
    """Grouped-query attention; Qwen3 normalises each query and key head before rotating it."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        config = checkpoint.config
        self.head_dim = config.head_dim
        self.qkv_proj = load_qkv(checkpoint, name)
        self.key_channels = load_key_channels(checkpoint, name)
        self.o_proj = load_attention_output(checkpoint, name)
        self.qk_norms: tuple[RMSNorm, RMSNorm] | None = None
        if config.qk_norm:
            self.qk_norms = (
                load_norm(checkpoint, f"{name}.q_norm", self.head_dim),
                load_norm(checkpoint, f"{name}.k_norm", self.head_dim),
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
