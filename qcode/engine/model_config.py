"""What a checkpoint says about its network: shapes, rotary scaling, experts, sampling defaults.

Nothing is known by model name: `qcode.engine.checkpoint.config` reads everything from the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["qwen2", "qwen3", "qwen3_moe", "qwen3_next"]


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Static YaRN (Peng et al., 2023): longer contexts by slower rotation of low frequencies."""

    factor: float
    original_context: int
    """Tokens the model was trained for before scaling."""
    attention_factor: float
    """Multiplies cosines and sines."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The mixture of experts in the layers that have one."""

    num_experts: int
    num_experts_per_token: int
    intermediate_size: int
    norm_topk_prob: bool
    """Whether the weights of the chosen experts are scaled to sum to one."""
    layers: frozenset[int]
    """The layers that have experts; the others have an ordinary MLP."""
    shared_intermediate_size: int = 0
    """Width of the expert that every token passes through; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttentionConfig:
    """The Gated DeltaNet layers of a hybrid model."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel_size: int
    layers: frozenset[int]
    """The layers that have it; the others have full attention."""

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution: queries, keys and values of all heads."""
        keys = self.num_key_heads * self.key_head_dim
        return 2 * keys + self.num_value_heads * self.value_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """How the checkpoint's authors want it sampled; None where they do not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    eos_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One transformer of the Qwen2, Qwen3, Qwen3-MoE or Qwen3-Next architecture."""

    architecture: Architecture
    vocab_size: int
    """Rows of the embedding, padding rows included: may exceed the tokenizer's count."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    yarn: YarnScaling | None
    context_window: int
    """Tokens of prompt and answer together, scaling included."""
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    """Whether o_proj has a bias too."""
    qk_norm: bool
    """Whether queries and keys are normalised per head before they are rotated."""
    experts: ExpertsConfig | None
    generation: GenerationDefaults
    linear_attention: LinearAttentionConfig | None = None
    partial_rotary_factor: float = 1.0
    """The share of a head's dimensions that is rotated; the others pass through."""

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def attention_layers(self) -> frozenset[int]:
        """The layers with full attention, which keep keys and values."""
        linear = self.linear_attention.layers if self.linear_attention else frozenset()
        return frozenset(range(self.num_layers)) - linear

    @property
    def attention_gate(self) -> bool:
        """Whether q_proj also makes a gate for what each head of full attention gives."""
        return self.architecture == "qwen3_next"

    @property
    def num_parameters(self) -> int:
        return self._count_parameters(self.experts.num_experts if self.experts else 0)

    @property
    def num_active_parameters(self) -> int:
        """Parameters that take part in one token's computation."""
        return self._count_parameters(self.experts.num_experts_per_token if self.experts else 0)

    def _count_parameters(self, experts_per_layer: int) -> int:
        hidden = self.hidden_size
        layers = len(self.attention_layers) * self._attention_parameters
        if self.linear_attention:
            linear = self.linear_attention
            layers += len(linear.layers) * _linear_attention_parameters(linear, hidden)
        num_expert_layers = 0
        if self.experts:
            num_expert_layers = len(self.experts.layers)
            layers += num_expert_layers * _expert_parameters(
                self.experts, hidden, experts_per_layer
            )
        layers += (self.num_layers - num_expert_layers) * 3 * hidden * self.intermediate_size
        norms = (2 * self.num_layers + 1) * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return embeddings + layers + norms

    @property
    def _attention_parameters(self) -> int:
        """Of one layer with full attention."""
        hidden, output = self.hidden_size, self.num_attention_heads * self.head_dim
        query = output * (2 if self.attention_gate else 1)
        key_value = self.num_key_value_heads * self.head_dim
        matrices = hidden * (query + 2 * key_value + output)
        biases = (query + 2 * key_value) * self.attention_bias + hidden * self.output_bias
        return matrices + biases + 2 * self.head_dim * self.qk_norm


def _linear_attention_parameters(linear: LinearAttentionConfig, hidden: int) -> int:
    """Of one layer: queries, keys, values and gate; beta and decay; convolution, norm, output."""
    values = linear.num_value_heads * linear.value_head_dim
    inputs = hidden * (linear.conv_dim + values + 2 * linear.num_value_heads)
    convolution = linear.conv_dim * linear.conv_kernel_size
    decay = 2 * linear.num_value_heads
    return inputs + convolution + decay + linear.value_head_dim + values * hidden


def _expert_parameters(experts: ExpertsConfig, hidden: int, num_experts: int) -> int:
    """Of one layer: the router, `num_experts` of its experts, the shared one and its gate."""
    shared = experts.shared_intermediate_size
    router = hidden * (experts.num_experts + bool(shared))
    return router + 3 * hidden * (num_experts * experts.intermediate_size + shared)
