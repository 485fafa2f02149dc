"""The network computes what transformers computes, however a prompt is cut into steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from paged_run import PagedRun
from random_checkpoint import (
    FAMILIES,
    Family,
    Weights,
    random_config,
    random_weights,
    write_gguf,
    write_safetensors,
)
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers_logits import assert_close, reference_logits

from qcode.engine.models.loading import LoadedModel, load_model
from qcode.protocol.errors import CheckpointError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

TOKENS = torch.randint(0, 389, (37,), generator=torch.Generator().manual_seed(3)).tolist()
OTHER_TOKENS = torch.randint(0, 389, (11,), generator=torch.Generator().manual_seed(4)).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def expected(directory: Path) -> Tensor:
    return reference_logits(directory, TOKENS)


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory)


def test_whole_prefill(loaded: LoadedModel, expected: Tensor) -> None:
    assert_close(PagedRun(loaded).step({0: TOKENS}), expected)


def test_prefill_in_chunks(loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    parts = [run.step({0: TOKENS[start : start + 7]}) for start in range(0, len(TOKENS), 7)]
    assert_close(torch.cat(parts), expected)


def test_decode_token_by_token(loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    assert_close(torch.cat([run.step({0: [token]}) for token in TOKENS]), expected)


def test_sequences_of_one_batch_do_not_see_each_other(
    loaded: LoadedModel, directory: Path, expected: Tensor
) -> None:
    other = reference_logits(directory, OTHER_TOKENS)
    run = PagedRun(loaded, num_sequences=2)
    first = run.step({1: OTHER_TOKENS[:-1], 0: TOKENS[:20]})
    second = run.step({0: TOKENS[20:], 1: OTHER_TOKENS[-1:]})
    assert_close(torch.cat([first[10:], second[:17]]), expected)
    assert_close(torch.cat([first[:10], second[17:]]), other)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
        ("qwen3", {"num_key_value_heads": 4, "rope_theta": 1e6, "rms_norm_eps": 1e-5}),
        ("qwen3_moe", {"norm_topk_prob": False, "mlp_only_layers": [], "num_experts_per_tok": 1}),
        (
            "qwen3_moe",
            {"rope_scaling": YARN, "num_attention_heads": 6, "tie_word_embeddings": True},
        ),
        ("qwen3", {"rope_scaling": {**YARN, "factor": 2.5, "attention_factor": 1.3}}),
    ],
)
def test_what_a_checkpoint_may_vary(
    family: Family, changes: dict[str, object], tmp_path: Path
) -> None:
    write_safetensors(tmp_path, family, **changes)
    run = PagedRun(load_model(tmp_path))
    assert_close(run.step({0: TOKENS}), reference_logits(tmp_path, TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
def test_files_written_by_transformers(family: Family, tmp_path: Path) -> None:
    original = write_safetensors(tmp_path / "original", family, rope_scaling=YARN)
    saved = tmp_path / "saved"
    reference = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    reference.save_pretrained(saved, max_shard_size="100KB")
    (saved / "tokenizer.json").write_bytes((original / "tokenizer.json").read_bytes())
    assert (saved / "model.safetensors.index.json").exists()
    run = PagedRun(load_model(saved))
    assert_close(run.step({0: TOKENS}), reference_logits(original, TOKENS))


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next"])
def test_experts_stored_as_one_tensor(family: Family, tmp_path: Path) -> None:
    config, apart = random_config(family), tmp_path / "apart"
    weights = random_weights(config)
    write_safetensors(apart, family, weights=weights)
    fused = {name: tensor for name, tensor in weights.items() if ".experts." not in name}
    for layer in {0, 1, 2}.difference(config["mlp_only_layers"]):
        name = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([weights[f"{name}.{i}.{part}_proj.weight"] for i in range(8)])
            for part in ("gate", "up", "down")
        )
        fused |= {f"{name}.gate_up_proj": torch.cat((gate, up), dim=1), f"{name}.down_proj": down}
    write_safetensors(tmp_path / "fused", family, weights=fused)
    logits = PagedRun(load_model(tmp_path / "fused")).step({0: TOKENS})
    assert_close(logits, reference_logits(apart, TOKENS))


def test_half_precision_weights_computed_in_float32(tmp_path: Path) -> None:
    write_safetensors(tmp_path, "qwen3", dtype=torch.bfloat16, num_shards=3)
    run = PagedRun(load_model(tmp_path))
    assert_close(run.step({0: TOKENS}), reference_logits(tmp_path, TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("matrix_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_gguf_equals_its_weights_unpacked(family: Family, matrix_type: str, tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "model.gguf", family, matrix_type=matrix_type)
    check_against_unpacked(tmp_path, family, weights)


@pytest.mark.parametrize("matrix_type", ["Q4_K", "Q5_K", "Q6_K"])
def test_gguf_with_blocks_of_256(matrix_type: str, tmp_path: Path) -> None:
    changes = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 256,
        "num_attention_heads": 8,
    }
    path = tmp_path / "model.gguf"
    weights = write_gguf(path, "qwen3_moe", matrix_type=matrix_type, **changes)
    check_against_unpacked(tmp_path, "qwen3_moe", weights, **changes)


def check_against_unpacked(path: Path, family: Family, weights: Weights, **changes: object) -> None:
    """The GGUF file in `path` computes what the same weights do, stored as safetensors.

    Fast kernels round activations to eight bits, so with them packed weights agree only nearly;
    in a hybrid network this small and random, hardly at all.
    """
    tied = "lm_head.weight" not in weights
    changes |= {"tie_word_embeddings": tied}
    write_safetensors(path / "unpacked", family, weights=weights, **changes)
    expected = PagedRun(load_model(path / "unpacked")).step({0: TOKENS})
    exact = PagedRun(load_model(path / "model.gguf", exact=True)).step({0: TOKENS})
    assert_close(exact, expected, 1e-5)
    if family != "qwen3_next":
        fast = PagedRun(load_model(path / "model.gguf")).step({0: TOKENS})
        assert ((fast - expected).norm() / expected.norm()).item() < 0.05


def test_progress_rises_to_one(directory: Path) -> None:
    fractions: list[float] = []
    load_model(directory, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path, "qwen3")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    with pytest.raises(CheckpointError, match=r"k_proj.weight.*\[64, 64\].*\[128, 64\]"):
        load_model(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path, "qwen2")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.3\.\S+ is missing"):
        load_model(tmp_path)


@pytest.mark.weights
@pytest.mark.xdist_group("engine")
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The capital of France is", " Paris"),
        (
            "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\nprint(add(1, 2))\n"
            "<|fim_middle|>",
            "a + b",
        ),
        (
            "<|im_start|>user\nReply with the single word yes.<|im_end|>\n<|im_start|>assistant\n",
            "Yes",
        ),
    ],
)
def test_a_real_model_says_what_it_knows(real_model: LoadedModel, prompt: str, answer: str) -> None:
    tokenizer, run = real_model.tokenizer, PagedRun(real_model)
    last = run.step({0: tokenizer.encode_prompt([(prompt, True)])})[-1]
    said: list[int] = []
    while not tokenizer.decode(said).startswith(answer) and len(said) < 4:
        said.append(int(last.argmax()))
        last = run.step({0: said[-1:]})[-1]
    assert tokenizer.decode(said).startswith(answer)


@pytest.fixture(scope="module")
def real_model() -> LoadedModel:
    return load_model(Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf")
