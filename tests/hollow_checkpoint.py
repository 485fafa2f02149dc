"""Writes checkpoints of any size whose weights are zeros that take no room on the disk."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from random_checkpoint import Config, random_config, write_tokenizer_json


def write_hollow_safetensors(directory: Path, **changes: object) -> Path:
    """A dense Qwen3 model in bfloat16; `changes` go into its `config.json`."""
    config = random_config("qwen3", **changes)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    write_tokenizer_json(directory / "tokenizer.json")
    header, end = {}, 0
    for name, shape in _shapes(config).items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return directory


def _shapes(config: Config) -> dict[str, list[int]]:
    hidden, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {
        "model.embed_tokens.weight": [config["vocab_size"], hidden],
        "model.norm.weight": [hidden],
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": [hidden],
            f"{name}.post_attention_layernorm.weight": [hidden],
            f"{name}.self_attn.q_proj.weight": [query, hidden],
            f"{name}.self_attn.k_proj.weight": [key, hidden],
            f"{name}.self_attn.v_proj.weight": [key, hidden],
            f"{name}.self_attn.o_proj.weight": [hidden, query],
            f"{name}.self_attn.q_norm.weight": [head],
            f"{name}.self_attn.k_norm.weight": [head],
            f"{name}.mlp.gate_proj.weight": [wide, hidden],
            f"{name}.mlp.up_proj.weight": [wide, hidden],
            f"{name}.mlp.down_proj.weight": [hidden, wide],
        }
    return shapes
