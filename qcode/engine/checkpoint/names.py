"""Checkpoint names -> ours. Ours are those of the Hugging Face files.

Experts have one name for all of a layer, `model.layers.{i}.mlp.experts.{projection}.weight`,
because files differ in whether they store them one by one or stacked.
"""

from __future__ import annotations

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
}
_LAYER_PREFIX = "model.layers."


def gguf_name(name: str) -> str:
    """The GGUF name of the tensor we call `name`; it always has one."""
    module, _, kind = name.rpartition(".")
    if not module.startswith(_LAYER_PREFIX):
        return f"{_GGUF_GLOBAL[module]}.{kind}"
    layer, _, part = module.removeprefix(_LAYER_PREFIX).partition(".")
    return f"blk.{layer}.{_GGUF_LAYER[part]}.{kind}"


def one_expert(name: str, expert: int) -> str:
    """The name of one expert's matrix in a file that stores them one by one."""
    return name.replace(".experts.", f".experts.{expert}.")


def stacked_experts(name: str) -> str:
    """The name of all experts' matrices in a safetensors file that stacks them."""
    return name.removesuffix(".weight")


def fused_experts(name: str) -> tuple[str, int]:
    """The name of the tensor that holds the rows of gate_proj and then those of up_proj.

    With it, which half of the rows `name` means: 0 or 1.
    """
    prefix, _, projection = stacked_experts(name).rpartition(".")
    return f"{prefix}.gate_up_proj", int(projection == "up_proj")
