"""What a model needs in memory for a context, computed before any of it is allocated.

Plain arithmetic on what the checkpoint's header says: no tensors, and nothing is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcode.engine.memory.context_window import largest_context_window
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions, KVDtype

_VALUE_BYTES: dict[KVDtype, int] = {
    "auto": 2,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8": 1,
    "int8": 1,
}
_SCALE_BYTES = 4
_ACTIVATION_BYTES = 4
_ATTENTION_SCRATCH_BYTES = 64 * 2**20
"""Scores and partial results of attention of either kind, and what else a step needs whatever its
size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """All sizes in bytes. `context_window` is the one budgeted: of one sequence, in tokens."""

    context_window: int
    kv_dtype: KVDtype
    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int
    """Keys and values of the whole window."""
    state_bytes: int
    """Recurrent state of one sequence; 0 where all attention is full attention."""
    scratch_bytes: int
    """Estimate of what one step needs besides."""
    available_bytes: int
    largest_context_window: int
    """The longest window that would fit, no longer than the model can be asked for."""

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.scratch_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes


def budget(
    config: ModelConfig,
    *,
    weight_bytes: int,
    kv_dtype: KVDtype,
    context_window: int | None,
    available_bytes: int,
) -> MemoryBudget:
    """`weight_bytes` is what the weights will hold of `available_bytes`: 0 once they are loaded.
    `context_window` is the model's own where it is None."""
    window = config.context_window if context_window is None else context_window
    per_token = kv_bytes_per_token(config, kv_dtype)
    state, scratch = state_bytes(config), scratch_bytes(config)
    left = max(0, available_bytes - weight_bytes - state - scratch)
    return MemoryBudget(
        context_window=window,
        kv_dtype=kv_dtype,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=per_token,
        kv_bytes=window * per_token,
        state_bytes=state,
        scratch_bytes=scratch,
        available_bytes=available_bytes,
        largest_context_window=min(left // max(1, per_token), largest_context_window(config)),
    )


def kv_bytes_per_token(config: ModelConfig, kv_dtype: KVDtype) -> int:
    """Keys and values of all layers with full attention, with their scales if they have any."""
    head_bytes = config.head_dim * _VALUE_BYTES[kv_dtype]
    if kv_dtype in ("float8", "int8"):
        head_bytes += _SCALE_BYTES
    return 2 * len(config.attention_layers) * config.num_key_value_heads * head_bytes


def state_bytes(config: ModelConfig) -> int:
    """What the linear attention layers keep of one sequence, however long it is."""
    linear = config.linear_attention
    if linear is None:
        return 0
    recurrent = linear.num_value_heads * linear.key_head_dim * linear.value_head_dim
    conv = linear.conv_dim * (linear.conv_kernel_size - 1)
    return len(linear.layers) * (4 * recurrent + _ACTIVATION_BYTES * conv)


def scratch_bytes(config: ModelConfig) -> int:
    """Activations of the longest prefill chunk and logits of the most sequences, by default
    options: a layer holds about its input, its projections and its gated products at once."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    attention = 2 * heads * config.head_dim
    if config.linear_attention:
        linear = config.linear_attention
        values = linear.num_value_heads * linear.value_head_dim
        # Queries, keys, values and gates as projected and in order; output, normed and gated.
        attention = max(attention, 2 * (linear.conv_dim + values) + 3 * values)
    wide = config.intermediate_size
    if config.experts:
        experts = config.experts
        per_token = experts.num_experts_per_token * experts.intermediate_size
        wide = max(wide, per_token + experts.shared_intermediate_size)
    chunk, rows = EngineOptions().max_chunk_tokens, EngineOptions().max_sequences
    widths = 4 * config.hidden_size + attention + 3 * wide
    activations = chunk * widths + 2 * rows * config.vocab_size
    return _ACTIVATION_BYTES * activations + _ATTENTION_SCRATCH_BYTES
