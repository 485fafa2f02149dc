"""Configs are read as their authors meant them, and nothing impossible gets past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from random_checkpoint import FAMILIES, Family, random_config, write_gguf, write_safetensors
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.layers.rotary import RotaryEmbedding, inverse_frequencies
from qcode.engine.model_config import (
    GenerationDefaults,
    LinearAttentionConfig,
    ModelConfig,
    YarnScaling,
)
from qcode.protocol.errors import CheckpointError, UnsupportedModel

# As published; the counts are those of the releases.
QWEN2_5_CODER_0_5B = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
    "eos_token_id": 151645,
}
QWEN3_32B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
QWEN3_CODER_30B = {
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5472,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "qkv_bias": False,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10_000_000,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_CODER_NEXT = {
    "model_type": "qwen3_next",
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 5_000_000,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GENERATION = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "eos_token_id": [151645, 151643],
}


def read(config: dict, generation: dict | None = None) -> ModelConfig:
    return config_from_json(config, generation or {}, "config.json")


@pytest.mark.parametrize(
    ("config", "num_parameters"),
    [
        (QWEN2_5_CODER_0_5B, 494_032_768),
        (QWEN3_32B, 32_762_123_264),
        (QWEN3_CODER_30B, 30_532_122_624),
        (QWEN3_CODER_NEXT, 79_674_391_296),
    ],
)
def test_parameter_counts_of_published_models(config: dict, num_parameters: int) -> None:
    assert read(config).num_parameters == num_parameters


def test_active_parameters() -> None:
    assert read(QWEN3_32B).num_active_parameters == read(QWEN3_32B).num_parameters
    config = read(QWEN3_CODER_30B)
    idle = 48 * (128 - 8) * 3 * 2048 * 768
    assert config.num_active_parameters == config.num_parameters - idle
    hybrid = read(QWEN3_CODER_NEXT)
    idle = 48 * (512 - 10) * 3 * 2048 * 512
    assert hybrid.num_active_parameters == hybrid.num_parameters - idle


def test_what_the_network_needs() -> None:
    config = read(QWEN3_CODER_30B, GENERATION)
    assert (config.head_dim, config.rope_theta, config.context_window) == (128, 1e7, 262144)
    assert not config.attention_bias
    assert config.qk_norm
    assert config.experts is not None
    assert config.experts.norm_topk_prob
    assert config.experts.layers == frozenset(range(48))
    small = read(QWEN2_5_CODER_0_5B)
    assert (small.head_dim, small.attention_bias, small.output_bias) == (64, True, False)
    assert not small.qk_norm
    assert small.experts is None


def test_what_the_hybrid_network_needs() -> None:
    config = read(QWEN3_CODER_NEXT)
    assert config.attention_layers == frozenset(range(3, 48, 4))
    assert (config.head_dim, config.rotary_dim, config.attention_gate) == (256, 64, True)
    assert config.experts is not None
    assert config.experts.shared_intermediate_size == 512
    assert config.linear_attention == LinearAttentionConfig(
        num_key_heads=16,
        num_value_heads=32,
        key_head_dim=128,
        value_head_dim=128,
        conv_kernel_size=4,
        layers=frozenset(range(48)) - config.attention_layers,
    )
    assert config.linear_attention.conv_dim == 8192
    plain = read(QWEN3_CODER_30B)
    assert plain.linear_attention is None
    assert plain.attention_layers == frozenset(range(48))
    assert (plain.rotary_dim, plain.attention_gate) == (128, False)


def test_a_list_of_layer_kinds_wins_over_the_interval() -> None:
    kinds = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    config = read({**QWEN3_CODER_NEXT, "num_hidden_layers": 4, "layer_types": kinds})
    assert config.attention_layers == {0, 3}


@pytest.mark.parametrize(
    ("rope", "rotary_dim"),
    [
        ({"partial_rotary_factor": None}, 64),
        ({"partial_rotary_factor": 0.5}, 128),
        ({"partial_rotary_factor": None, "rope_parameters": {"partial_rotary_factor": 0.5}}, 128),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.125}}, 32),
    ],
)
def test_how_much_of_a_head_is_rotated(rope: dict, rotary_dim: int) -> None:
    assert read({**QWEN3_CODER_NEXT, **rope}).rotary_dim == rotary_dim


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("linear_num_value_heads", 24),
        ("linear_num_key_heads", None),
        ("linear_key_head_dim", 0),
        ("linear_conv_kernel_dim", 1),
        ("full_attention_interval", 0),
        ("layer_types", "linear_attention"),
        ("layer_types", ["linear_attention"] * 47),
        ("layer_types", [["linear_attention"]] * 48),
        ("layer_types", ["sliding_attention"] * 48),
        ("partial_rotary_factor", 0),
        ("partial_rotary_factor", 1.5),
        ("partial_rotary_factor", 0.001),
        ("partial_rotary_factor", 3 / 256),
        ("shared_expert_intermediate_size", None),
        ("shared_expert_intermediate_size", -1),
    ],
)
def test_impossible_values_of_a_hybrid_network_are_named(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read({**QWEN3_CODER_NEXT, key: value})


def test_generation_defaults() -> None:
    assert read(QWEN3_CODER_30B, GENERATION).generation == GenerationDefaults(
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.05,
        eos_ids=frozenset({151645, 151643}),
    )
    greedy = read(QWEN3_CODER_30B, {**GENERATION, "do_sample": False})
    assert greedy.generation.temperature == 0
    assert read(QWEN3_CODER_30B).generation == GenerationDefaults(eos_ids=frozenset({151645}))


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"decoder_sparse_step": 2}, {1, 3}),
        ({"mlp_only_layers": [0, 2]}, {1, 3}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, {1}),
    ],
)
def test_which_layers_have_experts(changes: dict, layers: set[int]) -> None:
    config = read({**QWEN3_CODER_30B, "num_hidden_layers": 4, **changes})
    assert config.experts is not None
    assert config.experts.layers == layers


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_and_safetensors_agree(family: Family, tmp_path: Path) -> None:
    changes = {"mlp_only_layers": []} if family == "qwen3_moe" else {}
    write_gguf(tmp_path / "model.gguf", family, **changes)
    from_gguf = open_checkpoint(tmp_path / "model.gguf").config
    from_json = read(random_config(family, **changes))
    fields = ModelConfig.__dataclass_fields__.keys() - {"rms_norm_eps"}
    assert {f: getattr(from_gguf, f) for f in fields} == {f: getattr(from_json, f) for f in fields}
    assert from_gguf.rms_norm_eps == pytest.approx(from_json.rms_norm_eps)


def test_gguf_with_yarn_and_sampling_advice(tmp_path: Path) -> None:
    metadata = {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.rope.scaling.original_context_length": 128,
        "general.sampling.temp": 0.5,
        "general.sampling.top_k": 40,
    }
    write_gguf(tmp_path / "model.gguf", metadata=metadata)
    config = open_checkpoint(tmp_path / "model.gguf").config
    assert config.yarn is not None
    assert (config.yarn.factor, config.yarn.original_context) == (4.0, 128)
    assert config.yarn.attention_factor == pytest.approx(1.1386294361)
    assert config.context_window == 512
    assert (config.generation.temperature, config.generation.top_k) == (0.5, 40)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262144}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {"type": "yarn", **YARN}},
        {"rope_parameters": {**YARN, "rope_theta": 1e7}, "rope_theta": None},
    ],
)
def test_yarn_in_old_and_new_spelling(rope: dict) -> None:
    config = read({**QWEN3_CODER_30B, **rope})
    assert config.yarn == YarnScaling(
        factor=4.0, original_context=262144, attention_factor=pytest.approx(1.1386294361)
    )
    assert config.rope_theta == 1e7
    assert config.context_window == 1_048_576


def test_yarn_frequencies_of_published_models() -> None:
    """Values worked out from the paper's formula by hand."""
    coder = read({**QWEN3_CODER_30B, "rope_scaling": YARN})
    frequencies = inverse_frequencies(coder.rotary_dim, coder.rope_theta, coder.yarn)
    chosen = frequencies[[0, 28, 35, 43, 63]].tolist()
    expected = [1, 8.65964e-4, 9.65580e-5, 4.95239e-6, 3.21599e-8]
    assert chosen == pytest.approx(expected, rel=1e-5)
    hybrid = read({**QWEN3_CODER_NEXT, "rope_scaling": YARN})
    frequencies = inverse_frequencies(hybrid.rotary_dim, hybrid.rope_theta, hybrid.yarn)
    chosen = frequencies[[14, 18, 23, 31]].tolist()
    assert chosen == pytest.approx([1.17274e-3, 1.13694e-4, 3.82874e-6, 8.09679e-8], rel=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
        {"mscale": 0.7, "mscale_all_dim": 1.2},
        {"attention_factor": 1.5},
        {"original_max_position_embeddings": 64},
    ],
)
def test_yarn_equals_transformers(extra: dict, tmp_path: Path) -> None:
    changes = {"rope_scaling": {**YARN, "original_max_position_embeddings": 4096, **extra}}
    write_safetensors(tmp_path, "qwen3", **changes)
    config = open_checkpoint(tmp_path).config
    assert config.yarn is not None
    reference = AutoConfig.from_pretrained(tmp_path)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS["yarn"](reference, torch.device("cpu"))
    ours = inverse_frequencies(config.head_dim, config.rope_theta, config.yarn)
    torch.testing.assert_close(ours.float(), frequencies)
    assert config.yarn.attention_factor == pytest.approx(magnitude)


def test_angles_stay_apart_at_a_million() -> None:
    rotary = RotaryEmbedding(128, 1e7, None, torch.device("cpu"))
    cos, sin = rotary(torch.tensor([999_999, 1_000_000]))
    turn = torch.atan2(sin, cos).diff(dim=0)[0, 0] % (2 * torch.pi)
    assert turn.item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["llama", "qwen3_5", None, 5, ["qwen3"]])
def test_other_architectures_are_refused_with_advice(name: object) -> None:
    with pytest.raises(UnsupportedModel) as error:
        read({**QWEN3_32B, "model_type": name})
    assert "URL" in error.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": True},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_what_would_compute_something_else_is_refused(changes: dict) -> None:
    with pytest.raises(UnsupportedModel):
        read({**QWEN3_32B, **changes})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "896"),
        ("hidden_size", 0),
        ("hidden_size", 2**40),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", True),
        ("num_attention_heads", 1.5),
        ("num_key_value_heads", 5),
        ("num_key_value_heads", 0),
        ("head_dim", 7),
        ("rms_norm_eps", -1.0),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_theta", "large"),
        ("tie_word_embeddings", "yes"),
        ("eos_token_id", "x"),
        ("rope_scaling", 4),
        ("rope_theta", 1),
        ("rope_scaling", {"rope_type": "yarn", "factor": 0}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 1e308}),
        ("num_experts_per_tok", 129),
        ("mlp_only_layers", [0.5]),
        ("decoder_sparse_step", 0),
    ],
)
def test_impossible_values_are_named(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read({**QWEN3_CODER_30B, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", -1), ("top_p", 1.5), ("top_k", -1), ("repetition_penalty", 0)],
)
def test_impossible_sampling_advice_is_named(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        read(QWEN3_CODER_30B, {key: value})


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: does not exist"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_checkpoint(tmp_path / "nowhere.gguf")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(UnsupportedModel, match="not a model the engine can read") as error:
        open_checkpoint(tmp_path / "pytorch_model.bin")
    assert "safetensors" in error.value.hint


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"[" + b"[]," * (2 << 20)],
    ids=["empty", "list", "cut", "not text", "deep", "too much"],
)
def test_config_that_is_no_json_object(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        {"model.norm.weight": "../outside.safetensors"},
        {"model.norm.weight": "/etc/hostname"},
        {"model.norm.weight": 5},
        {"model.norm.weight": ".."},
        {"missing": "model-00001-of-00002.safetensors"},
    ],
)
def test_an_index_that_points_elsewhere(weight_map: object, tmp_path: Path) -> None:
    write_safetensors(tmp_path, num_shards=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
