"""Writes tiny checkpoints with random weights, as safetensors or GGUF files.

The vocabulary is a real byte-level BPE of a few hundred tokens with the special tokens of the
Qwen family, so every string can be encoded. The same seed gives the same files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

Family = Literal["qwen2", "qwen3", "qwen3_moe", "qwen3_next"]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3", "qwen3_moe", "qwen3_next")

Config = dict[str, Any]
Weights = dict[str, torch.Tensor]

EXPERT_NAME = re.compile(r"(?P<before>.*\.experts\.)(?P<expert>\d+)(?P<after>\..*)")
GGUF_PARTS = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.A", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)
RANDOM_BLOCK_SCALES = {
    gguf.GGMLQuantizationType.Q2_K: ((80, 0.06), (82, 0.09)),
    gguf.GGMLQuantizationType.Q3_K: ((108, 0.02),),
    gguf.GGMLQuantizationType.Q4_K: ((0, 0.003), (2, 0.02)),
    gguf.GGMLQuantizationType.Q5_K: ((0, 0.0015), (2, 0.02)),
    gguf.GGMLQuantizationType.Q6_K: ((208, 0.0008),),
    gguf.GGMLQuantizationType.IQ4_NL: ((0, 0.012),),
    gguf.GGMLQuantizationType.IQ4_XS: ((0, 0.0007),),
}
"""Byte offset and size of the half-precision scales in a block; the rest may be any bytes."""

NUM_MERGES = 128
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
)
CUT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINING_TEXT = """
def main(self, value: int) -> str:
    \"\"\"Return the name of the value, and what it is for the reader of this text.\"\"\"
    for index, item in enumerate(self.items):
        if item is None:
            continue
        print("the item at", index, "is", item)
        self.values[index] = value + 1
    return "".join(str(part) for part in self.parts)
class Reader:
    def __init__(self, path: str) -> None:
        self.path = path
import sys
from pathlib import Path
"""


@dataclass(frozen=True, kw_only=True)
class RandomVocabulary:
    """`tokens[i]` is token i in GPT-2's alphabet; merge m makes token 256 + m."""

    tokens: list[str]
    merges: list[str]

    @property
    def special_ids(self) -> dict[str, int]:
        return {text: len(self.tokens) + i for i, text in enumerate(SPECIAL_TOKENS)}

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) + len(SPECIAL_TOKENS)


@cache
def random_vocabulary() -> RandomVocabulary:
    """Trains a BPE on a few lines of Python: the most frequent pair becomes the next token."""
    alphabet = gpt2_alphabet()
    words = Counter(re.findall(r" ?\w+| ?[^\w\s]+|\s+", TRAINING_TEXT))
    split = {word: [alphabet[byte] for byte in word.encode()] for word in words}
    tokens, merges = sorted(alphabet.values()), []
    while len(merges) < NUM_MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(split[word]):
                pairs[pair] += count
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        tokens.append(left + right)
        merges.append(f"{left} {right}")
        for parts in split.values():
            merge_pair(parts, left, right)
    return RandomVocabulary(tokens=tokens, merges=merges)


def merge_pair(parts: list[str], left: str, right: str) -> None:
    i = 0
    while i < len(parts) - 1:
        if parts[i] == left and parts[i + 1] == right:
            parts[i : i + 2] = [left + right]
        i += 1


def gpt2_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {b: chr(256 + i) for i, b in enumerate(moved)}


def random_config(family: Family, **changes: object) -> Config:
    """A `config.json`; heads are wider than hidden_size / heads where the family allows it."""
    special_ids = random_vocabulary().special_ids
    config: Config = {
        "model_type": family,
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "max_position_embeddings": 512,
        "tie_word_embeddings": family == "qwen2",
        "use_sliding_window": False,
        "eos_token_id": special_ids["<|im_end|>"],
    }
    if family == "qwen2":
        config["architectures"] = ["Qwen2ForCausalLM"]
    if family == "qwen3":
        config |= {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "attention_bias": False}
    if family == "qwen3_moe":
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "head_dim": 32,
            "attention_bias": False,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1],
        }
    if family == "qwen3_next":
        config |= {
            "architectures": ["Qwen3NextForCausalLM"],
            "head_dim": 32,
            "attention_bias": False,
            "partial_rotary_factor": 0.25,
            "full_attention_interval": 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
            "linear_conv_kernel_dim": 4,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config | changes


def random_weights(config: Config, seed: int = 0) -> Weights:
    """float32 tensors under their Hugging Face names; norms and biases are random too."""
    draw = _Draw(seed, zero_centred_norms=config["model_type"] == "qwen3_next")
    hidden, vocab_size = config["hidden_size"], config["vocab_size"]
    weights = {
        "model.embed_tokens.weight": draw.matrix(vocab_size, hidden),
        "model.norm.weight": draw.layer_norm(hidden),
    }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = draw.matrix(vocab_size, hidden)
    for index in range(config["num_hidden_layers"]):
        name = f"model.layers.{index}"
        weights[f"{name}.input_layernorm.weight"] = draw.layer_norm(hidden)
        weights[f"{name}.post_attention_layernorm.weight"] = draw.layer_norm(hidden)
        if index in linear_layers(config):
            weights |= _linear_attention(config, f"{name}.linear_attn", draw)
        else:
            weights |= _attention(config, f"{name}.self_attn", draw)
        sparse = (index + 1) % config.get("decoder_sparse_step", 1) == 0
        if "num_experts" in config and sparse and index not in config["mlp_only_layers"]:
            weights |= _experts(config, f"{name}.mlp", draw)
        else:
            weights |= _mlp(f"{name}.mlp", hidden, config["intermediate_size"], draw)
    return weights


def linear_layers(config: Config) -> set[int]:
    """The layers with linear attention."""
    if config["model_type"] != "qwen3_next":
        return set()
    kinds = config.get("layer_types")
    if kinds:
        return {i for i, kind in enumerate(kinds) if kind == "linear_attention"}
    interval = config["full_attention_interval"]
    return {i for i in range(config["num_hidden_layers"]) if (i + 1) % interval}


def _linear_attention(config: Config, name: str, draw: _Draw) -> Weights:
    hidden, value_heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = value_heads * config["linear_value_head_dim"]
    kernel_size = config["linear_conv_kernel_dim"]
    return {
        f"{name}.in_proj_qkvz.weight": draw.matrix(2 * keys + 2 * values, hidden),
        f"{name}.in_proj_ba.weight": draw.matrix(2 * value_heads, hidden),
        f"{name}.conv1d.weight": draw.matrix(2 * keys + values, kernel_size).unsqueeze(1),
        f"{name}.A_log": draw.centred(value_heads),
        f"{name}.dt_bias": draw.centred(value_heads),
        f"{name}.norm.weight": draw.norm(config["linear_value_head_dim"]),
        f"{name}.out_proj.weight": draw.matrix(hidden, values),
    }


def _attention(config: Config, name: str, draw: _Draw) -> Weights:
    hidden, head_dim = config["hidden_size"], head_dim_of(config)
    heads = config["num_attention_heads"] * head_dim
    query = heads * (2 if config["model_type"] == "qwen3_next" else 1)
    key_value = config["num_key_value_heads"] * head_dim
    biased = config.get("attention_bias", config["model_type"] == "qwen2")
    weights = {f"{name}.o_proj.weight": draw.matrix(hidden, heads)}
    for part, rows in (("q", query), ("k", key_value), ("v", key_value)):
        weights[f"{name}.{part}_proj.weight"] = draw.matrix(rows, hidden)
        if biased:
            weights[f"{name}.{part}_proj.bias"] = draw.centred(rows)
    if config.get("attention_bias"):
        weights[f"{name}.o_proj.bias"] = draw.centred(hidden)
    if config["model_type"] != "qwen2":
        weights[f"{name}.q_norm.weight"] = draw.layer_norm(head_dim)
        weights[f"{name}.k_norm.weight"] = draw.layer_norm(head_dim)
    return weights


def _mlp(name: str, hidden: int, width: int, draw: _Draw) -> Weights:
    return {
        f"{name}.gate_proj.weight": draw.matrix(width, hidden),
        f"{name}.up_proj.weight": draw.matrix(width, hidden),
        f"{name}.down_proj.weight": draw.matrix(hidden, width),
    }


def _experts(config: Config, name: str, draw: _Draw) -> Weights:
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]
    weights = {f"{name}.gate.weight": draw.matrix(config["num_experts"], hidden)}
    for expert in range(config["num_experts"]):
        weights |= _mlp(f"{name}.experts.{expert}", hidden, width, draw)
    if config.get("shared_expert_intermediate_size"):
        width = config["shared_expert_intermediate_size"]
        weights[f"{name}.shared_expert_gate.weight"] = draw.matrix(1, hidden)
        weights |= _mlp(f"{name}.shared_expert", hidden, width, draw)
    return weights


class _Draw:
    """Random tensors of the size that keeps activations near one."""

    def __init__(self, seed: int, *, zero_centred_norms: bool = False) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._zero_centred_norms = zero_centred_norms

    def matrix(self, rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=self._generator) / columns**0.5

    def norm(self, size: int) -> torch.Tensor:
        return 0.5 + torch.rand(size, generator=self._generator)

    def centred(self, size: int) -> torch.Tensor:
        return self.norm(size) - 1

    def layer_norm(self, size: int) -> torch.Tensor:
        """As the family stores it: what is multiplied by, or its distance from one."""
        return self.centred(size) if self._zero_centred_norms else self.norm(size)


def head_dim_of(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def write_safetensors(
    directory: Path,
    family: Family = "qwen3",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    num_shards: int = 1,
    weights: Weights | None = None,
    **changes: object,
) -> Path:
    """A directory as a model repository has it; `changes` go into its `config.json`."""
    config = random_config(family, **changes)
    weights = random_weights(config, seed) if weights is None else weights
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    eos_ids = [config["eos_token_id"], random_vocabulary().special_ids["<|endoftext|>"]]
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "eos_token_id": eos_ids}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer_json(directory / "tokenizer.json")
    if num_shards == 1:
        save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    names, weight_map = sorted(stored), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        save_file({name: stored[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def write_tokenizer_json(path: Path) -> None:
    """The vocabulary in the form the `tokenizers` package reads."""
    vocabulary = random_vocabulary()
    added = [
        {
            "id": number,
            "content": text,
            "special": text.startswith("<|"),
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
        for text, number in vocabulary.special_ids.items()
    ]
    split = {
        "type": "Split",
        "pattern": {"Regex": CUT_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocabulary.tokens)},
            "merges": [merge.split(" ") for merge in vocabulary.merges],
        },
    }
    path.write_text(json.dumps(content))


def write_gguf(
    path: Path,
    family: Family = "qwen3",
    *,
    seed: int = 0,
    matrix_type: str = "F32",
    metadata: dict[str, object] | None = None,
    grouped_inputs: bool = False,
    **changes: object,
) -> Weights:
    """A GGUF file whose matrices are all of `matrix_type`; other tensors are F32.

    `grouped_inputs` keeps the inputs of linear attention in one matrix, as old files have it.
    Types the `gguf` package cannot quantise to are filled with random blocks. Returns what the
    file says, dequantised by that package: float32 under Hugging Face names.
    """
    config = random_config(family, **changes)
    kind = gguf.GGMLQuantizationType[matrix_type]
    architecture = family.replace("_", "")
    writer = gguf.GGUFWriter(path, architecture)
    _write_hyperparameters(writer, architecture, config)
    _write_vocabulary(writer, config)
    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    stored: Weights = {}
    rng = np.random.default_rng(seed)
    weights = random_weights(config, seed)
    if family == "qwen3_next":
        weights = _converted(config, weights, grouped_inputs=grouped_inputs)
    for name, tensor in _stacked(weights).items():
        if tensor.dim() == 1 or name.endswith(("mlp.gate.weight", ".conv1d.weight")):
            writer.add_tensor(_gguf_name(name, family), tensor.contiguous().numpy())
            stored[name] = tensor
        else:
            packed = _packed(tensor.numpy(), kind, rng)
            writer.add_tensor(_gguf_name(name, family), packed, raw_dtype=kind)
            values = gguf.quants.dequantize(packed, kind).reshape(tensor.shape)
            stored[name] = torch.from_numpy(values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = _unstacked(stored)
    return _published(config, stored) if family == "qwen3_next" else stored


def _write_hyperparameters(writer: gguf.GGUFWriter, architecture: str, config: Config) -> None:
    num_ahead = config.get("num_nextn_predict_layers", 0)
    writer.add_block_count(config["num_hidden_layers"] + num_ahead)
    if num_ahead:
        writer.add_nextn_predict_layers(num_ahead)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if architecture != "qwen2":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if architecture == "qwen3next":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
        value_heads = config["linear_num_value_heads"]
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(value_heads)
        writer.add_ssm_inner_size(value_heads * config["linear_value_head_dim"])
        writer.add_full_attention_interval(config["full_attention_interval"])
        share = config["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(config["head_dim"] * share))


def _write_vocabulary(writer: gguf.GGUFWriter, config: Config) -> None:
    vocabulary = random_vocabulary()
    num_padding = config["vocab_size"] - vocabulary.num_tokens
    padding = [f"[PAD{vocabulary.num_tokens + i}]" for i in range(num_padding)]
    controls = [3 if text.startswith("<|") else 4 for text in SPECIAL_TOKENS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*vocabulary.tokens, *SPECIAL_TOKENS, *padding])
    writer.add_token_types([1] * len(vocabulary.tokens) + controls + [5] * num_padding)
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(vocabulary.special_ids["<|endoftext|>"])
    writer.add_add_bos_token(False)


def _packed(matrix: np.ndarray, kind: gguf.GGMLQuantizationType, rng: Any) -> np.ndarray:
    if kind not in RANDOM_BLOCK_SCALES:
        return gguf.quants.quantize(matrix, kind)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    shape = (*matrix.shape[:-1], matrix.shape[-1] // block_size, block_bytes)
    blocks = rng.integers(0, 256, shape, dtype=np.uint8)
    for offset, scale in RANDOM_BLOCK_SCALES[kind]:
        scales = rng.uniform(0.5, 1.5, shape[:-1]) * scale / matrix.shape[-1] ** 0.5
        blocks[..., offset : offset + 2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(*matrix.shape[:-1], -1)


def _stacked(weights: Weights) -> Weights:
    """Experts as GGUF holds them: one tensor for all of a layer."""
    result: Weights = {}
    for name, tensor in weights.items():
        match = EXPERT_NAME.fullmatch(name)
        if match is None:
            result[name] = tensor
        elif match["expert"] == "0":
            count = sum(
                n.startswith(match["before"]) and n.endswith(match["after"]) for n in weights
            )
            parts = [weights[f"{match['before']}{i}{match['after']}"] for i in range(count)]
            result[f"{match['before'][:-1]}{match['after']}"] = torch.stack(parts)
    return result


def _unstacked(weights: Weights) -> Weights:
    result: Weights = {}
    for name, tensor in weights.items():
        if tensor.dim() == 3:
            for i, expert in enumerate(tensor):
                result[name.replace(".experts.", f".experts.{i}.")] = expert
        else:
            result[name] = tensor
    return result


def _converted(config: Config, weights: Weights, *, grouped_inputs: bool) -> Weights:
    """The hybrid family's weights as the converter to GGUF changes them."""
    result: Weights = {}
    for name, tensor in weights.items():
        if name.endswith("in_proj_qkvz.weight") and not grouped_inputs:
            prefix = name.removesuffix("qkvz.weight")
            qkvz = tensor[_rows_of_inputs(config)]
            num_gates = config["linear_num_value_heads"] * config["linear_value_head_dim"]
            result[f"{prefix}qkv.weight"] = qkvz[:-num_gates]
            result[f"{prefix}z.weight"] = qkvz[-num_gates:]
        elif name.endswith(".A_log"):
            result[name.removesuffix("_log")] = -tensor.exp()
        elif name.endswith((".conv1d.weight", ".shared_expert_gate.weight")):
            result[name] = tensor.squeeze(tensor.shape.index(1))
        else:
            result[name] = tensor + 1 if _is_zero_centred(name) else tensor
    return result


def _published(config: Config, converted: Weights) -> Weights:
    """The reverse of `_converted`."""
    result: Weights = {}
    for name, tensor in converted.items():
        if name.endswith("in_proj_qkv.weight"):
            prefix = name.removesuffix("qkv.weight")
            qkvz = torch.cat((tensor, converted[f"{prefix}z.weight"]))
            result[f"{prefix}qkvz.weight"] = qkvz[_rows_of_inputs(config).argsort()]
        elif name.endswith(".A"):
            result[f"{name}_log"] = (-tensor).log()
        elif name.endswith(".conv1d.weight"):
            result[name] = tensor.unsqueeze(1)
        elif name.endswith(".shared_expert_gate.weight"):
            result[name] = tensor.unsqueeze(0)
        elif not name.endswith("in_proj_z.weight"):
            result[name] = tensor - 1 if _is_zero_centred(name) else tensor
    return result


def _is_zero_centred(name: str) -> bool:
    return name.endswith("norm.weight") and not name.endswith(".linear_attn.norm.weight")


def _rows_of_inputs(config: Config) -> torch.Tensor:
    """Where in `in_proj_qkvz` all queries lie, then all keys, all values and all gates.

    For each key head it has one query, one key, and the values and gates of the value heads
    that share them.
    """
    key_heads, key_dim = config["linear_num_key_heads"], config["linear_key_head_dim"]
    shared = config["linear_num_value_heads"] // key_heads * config["linear_value_head_dim"]
    sizes = [key_dim, key_dim, shared, shared]
    rows = torch.arange(key_heads * sum(sizes)).view(key_heads, -1)
    return torch.cat([part.flatten() for part in rows.split(sizes, dim=1)])


def _gguf_name(name: str, family: Family) -> str:
    if family == "qwen3_next":
        name = name.replace("post_attention_layernorm", "post_attention_norm")
    for ours, theirs in GGUF_PARTS:
        name = name.replace(ours, theirs)
    return name
