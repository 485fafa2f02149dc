"""Checkpoint names -> ours. Ours are those of the Hugging Face files, but for two things.

Experts have one name for all of a layer, `model.layers.{i}.mlp.experts.{projection}.weight`,
because files differ in whether they store them one by one or stacked. Of a linear attention
layer, `in_proj_qkvz` is the one matrix whose rows are grouped by key head, as Hugging Face files
and old GGUF files have it; newer GGUF files have `in_proj_qkv` and `in_proj_z` instead, with the
rows of all queries, all keys, all values and all gates one after another. Its decay is `A`: see
`canonical`.
"""

from __future__ import annotations

from qcode.engine.model_config import Architecture

_GGUF_GLOBAL = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
_GGUF_TENSOR = {
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A": "ssm_a",
}
"""Tensors of a layer whose whole name differs, not only that of their module."""
_LAYER_PREFIX = "model.layers."


def gguf_name(name: str, architecture: Architecture) -> str:
    """The GGUF name of the tensor we call `name`; it always has one."""
    if not name.startswith(_LAYER_PREFIX):
        module, _, kind = name.rpartition(".")
        return f"{_GGUF_GLOBAL[module]}.{kind}"
    layer, _, tensor = name.removeprefix(_LAYER_PREFIX).partition(".")
    if tensor in _GGUF_TENSOR:
        return f"blk.{layer}.{_GGUF_TENSOR[tensor]}"
    module, _, kind = tensor.rpartition(".")
    part = _GGUF_LAYER[module]
    if part == "ffn_norm" and architecture == "qwen3_next":
        part = "post_attention_norm"
    return f"blk.{layer}.{part}.{kind}"


def one_expert(name: str, expert: int) -> str:
    """The name of one expert's matrix in a file that stores them one by one."""
    return name.replace(".experts.", f".experts.{expert}.")


def stacked_experts(name: str) -> str:
    """The name of all experts' matrices in a safetensors file that stacks them.

    It may end in ".weight" there all the same.
    """
    return name.removesuffix(".weight")


def fused_experts(name: str) -> tuple[str, int]:
    """The name of the tensor that holds the rows of gate_proj and then those of up_proj.

    With it, which half of the rows `name` means: 0 or 1.
    """
    prefix, _, projection = stacked_experts(name).rpartition(".")
    return f"{prefix}.gate_up_proj", int(projection == "up_proj")


def expert_part(part: str) -> tuple[str, str]:
    """The projection a tensor of stacked experts belongs to, and what it would be called apart.

    "gate_up_proj_scale_inv" holds the "weight_scale_inv" of "gate_up_proj".
    """
    projection, _, kind = part.partition("_proj")
    kind = kind.removeprefix("_")
    if kind and not kind.startswith(("weight", "input", "bias")):
        kind = f"weight_{kind}"
    return f"{projection}_proj", kind or "weight"
