"""The hybrid network of Qwen3-Next and Qwen3-Coder-Next.

Most layers have linear attention (Gated DeltaNet), whose memory does not grow with the context;
every few, full attention with gated output and partly rotated heads. All have a mixture of
experts with one that is shared. Norms are computed wholly in float32.

N = tokens of this step, D = hidden size, H = query heads, Hk and Hv = key and value heads of
linear attention, dk and dv = their sizes, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qcode.engine import kernels
from qcode.engine.checkpoint.checkpoint import Checkpoint
from qcode.engine.kernels.fused_layer import FusedLayers, LayerParts
from qcode.engine.kernels.library import installed
from qcode.engine.layers.attention import AttentionInputs, cached_attention
from qcode.engine.layers.cache import DeltaState, LayerCache, PagedKV
from qcode.engine.layers.embedding import Embedding
from qcode.engine.layers.fused import LayerStack, fused_feed_forward, layer_parts
from qcode.engine.layers.gated_delta import cached_gated_delta
from qcode.engine.layers.linear import Linear
from qcode.engine.layers.norm import RMSNorm
from qcode.engine.layers.projections import Projections
from qcode.engine.layers.rotary import RotaryEmbedding
from qcode.engine.model_config import LinearAttentionConfig
from qcode.engine.models.parts import (
    load_attention_output,
    load_feed_forward,
    load_key_channels,
    load_lm_head,
    load_norm,
    load_qkv,
)


class Qwen3Next:
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
        self.key_channels = [
            layer.attention.key_channels
            for layer in layers
            if isinstance(layer.attention, GatedAttention)
        ]
        self.norm = _norm(checkpoint, "model.norm", config.hidden_size)
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
    """Attention of either kind, then a feed-forward network, each added to what it reads."""

    def __init__(self, checkpoint: Checkpoint, index: int, dtype: torch.dtype) -> None:
        config, name = checkpoint.config, f"model.layers.{index}"
        size, linear = config.hidden_size, config.linear_attention
        self.input_layernorm = _norm(checkpoint, f"{name}.input_layernorm", size)
        self.attention: GatedDeltaNet | GatedAttention
        if linear and index in linear.layers:
            self.attention = GatedDeltaNet(checkpoint, f"{name}.linear_attn", linear)
        else:
            self.attention = GatedAttention(checkpoint, f"{name}.self_attn")
        self.post_attention_layernorm = _norm(checkpoint, f"{name}.post_attention_layernorm", size)
        self.mlp = load_feed_forward(checkpoint, f"{name}.mlp", index)
        self.parts: LayerParts | None = None
        self.fused_mlp: FusedLayers | None = None
        if isinstance(self.attention, GatedAttention):
            self.parts = layer_parts(
                input_norm=self.input_layernorm,
                qkv_proj=self.attention.qkv_proj,
                o_proj=self.attention.o_proj,
                qk_norms=(self.attention.q_norm, self.attention.k_norm),
                head_dim=self.attention.head_dim,
                is_gated=True,
                post_norm=self.post_attention_layernorm,
                feed_forward=self.mlp,
                dtype=dtype,
            )
        else:
            self.fused_mlp = fused_feed_forward(self.post_attention_layernorm, self.mlp, dtype)

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor:
        x = x + self.attention(self.input_layernorm(x), rotation, inputs, cache)
        if self.fused_mlp is None:
            return x + self.mlp(self.post_attention_layernorm(x))
        self.fused_mlp.run_feed_forward(x)
        return x


class GatedAttention:
    """Grouped-query attention whose heads are rotated in part, and gated at the end."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.head_dim = checkpoint.config.head_dim
        self.qkv_proj = load_qkv(checkpoint, name)
        self.key_channels = load_key_channels(checkpoint, name)
        self.q_norm = _norm(checkpoint, f"{name}.q_norm", self.head_dim)
        self.k_norm = _norm(checkpoint, f"{name}.k_norm", self.head_dim)
        self.o_proj = load_attention_output(checkpoint, name)

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor:
        assert isinstance(cache, PagedKV)
        queries, k, v = (part.view(len(x), -1, self.head_dim) for part in self.qkv_proj(x))
        q, gate = queries[:, 0::2], queries[:, 1::2]  # [N, H, head_dim] each
        q = kernels.apply_rotary(self.q_norm(q), *rotation)
        k = kernels.apply_rotary(self.k_norm(k), *rotation)
        attended = cached_attention(q, k, v, cache, inputs, scale=self.head_dim**-0.5)
        return self.o_proj((attended * gate.sigmoid()).flatten(1))


class GatedDeltaNet:
    """Linear attention (Yang et al., 2024): each head writes to a matrix of its own, which fades.

    How fast it fades, and how far a token overwrites what it finds, depends on the token.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, config: LinearAttentionConfig) -> None:
        num_heads, value_dim = config.num_value_heads, config.value_head_dim
        hidden, values = checkpoint.config.hidden_size, num_heads * value_dim
        conv = (config.conv_dim, config.conv_kernel_size)
        self.value_dim = value_dim
        self.in_proj = DeltaProjections(checkpoint, name, config)
        self.conv = checkpoint.tensor(f"{name}.conv1d.weight", conv, torch.float32)
        self.A = checkpoint.tensor(f"{name}.A", (num_heads,), torch.float32)
        self.dt_bias = checkpoint.tensor(f"{name}.dt_bias", (num_heads,), torch.float32)
        self.norm = _norm(checkpoint, f"{name}.norm", value_dim)
        self.out_proj = Linear(checkpoint.weight(f"{name}.out_proj.weight", (hidden, values)))

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: AttentionInputs,
        cache: LayerCache,
    ) -> Tensor:
        """Order is in the state: `rotation` goes unused."""
        assert isinstance(cache, DeltaState)
        qkv, z, b, a = self.in_proj(x)
        g = self.A * functional.softplus(a.float() + self.dt_bias)
        mixed = cached_gated_delta(qkv, g, b.float().sigmoid(), self.conv, cache, inputs)
        gate = z.float().view_as(mixed)
        gated = kernels.silu_and_mul(gate, self.norm(mixed))
        return self.out_proj(gated.flatten(1).to(x.dtype))


class DeltaProjections:
    """What linear attention makes of its input.

    Files differ in how the rows of queries, keys, values and output gates lie: for one key head
    after another, or for all heads one kind after another. The weights stay as they are stored;
    their product is put in order.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, config: LinearAttentionConfig) -> None:
        hidden = checkpoint.config.hidden_size
        values = config.num_value_heads * config.value_head_dim
        served = config.num_value_heads // config.num_key_heads
        self.num_key_heads = config.num_key_heads
        self.by_key_head = not checkpoint.has(f"{name}.in_proj_qkv.weight")
        self.group = [config.key_head_dim] * 2 + [served * config.value_head_dim] * 2
        rows = (
            {"in_proj_qkvz": config.conv_dim + values}
            if self.by_key_head
            else {"in_proj_qkv": config.conv_dim, "in_proj_z": values}
        )
        rows["in_proj_ba"] = 2 * config.num_value_heads
        self.projections = Projections(
            [checkpoint.weight(f"{name}.{p}.weight", (n, hidden)) for p, n in rows.items()]
        )

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [N, D] -> qkv [N, 2 Hk dk + Hv dv], z [N, Hv dv], b and a [N, Hv]."""
        *parts, ba = self.projections(x)
        b, a = ba.reshape(len(x), self.num_key_heads, 2, -1).unbind(2)
        if self.by_key_head:
            groups = parts[0].reshape(len(x), self.num_key_heads, -1)
            q, k, v, z = (part.flatten(1) for part in torch.split(groups, self.group, dim=-1))
            qkv = torch.cat((q, k, v), dim=-1)
        else:
            qkv, z = parts
        return qkv, z, b.flatten(1), a.flatten(1)


def _norm(checkpoint: Checkpoint, name: str, size: int) -> RMSNorm:
    return load_norm(checkpoint, name, size, torch.float32)
