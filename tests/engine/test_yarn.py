"""YaRN: the angles and the logits of transformers, and nothing where it is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paged_run import PagedRun
from random_checkpoint import FAMILIES, Family, random_config, write_safetensors
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3NextConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRotaryEmbedding

from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.engine import Engine
from qcode.engine.layers.rotary import RotaryEmbedding, inverse_frequencies
from qcode.engine.memory.context_window import (
    context_notice,
    largest_context_window,
    with_context_window,
)
from qcode.engine.model_config import ModelConfig, YarnScaling
from qcode.engine.models.loading import load_model
from qcode.engine.options import EngineOptions, parse_context
from qcode.protocol.errors import EngineError

NATIVE = 262_144
POSITIONS = [0, 1, 4095, 32_768, 262_143, 262_144, 777_777, 1_048_575]
MAGNITUDE = 1.1386294361
SHAPES = {"coder": (128, 1e7), "next": (64, 5e6)}
CPU = torch.device("cpu")


def yarn_of(factor: float = 4.0, original: int = NATIVE) -> YarnScaling:
    return YarnScaling(factor=factor, original_context=original, attention_factor=MAGNITUDE)


def transformers_rotary(shape: str, rope: dict[str, object]) -> torch.nn.Module:
    rotary_dim, theta = SHAPES[shape]
    rope = {"rope_theta": theta, **rope}
    if shape == "coder":
        return Qwen3RotaryEmbedding(Qwen3Config(head_dim=rotary_dim, rope_parameters=rope))
    rope["partial_rotary_factor"] = 0.25
    return Qwen3NextRotaryEmbedding(Qwen3NextConfig(head_dim=256, rope_parameters=rope))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [None, 1.5, 2.0, 4.0])
def test_angles_equal_transformers_up_to_a_million(shape: str, factor: float | None) -> None:
    rope: dict[str, object] = {"rope_type": "default"}
    yarn = None
    if factor is not None:
        rope = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": NATIVE,
            "attention_factor": MAGNITUDE,
        }
        yarn = yarn_of(factor)
    positions = torch.tensor(POSITIONS)
    expected = transformers_rotary(shape, rope)(torch.zeros(1), positions[None])

    actual = RotaryEmbedding(*SHAPES[shape], yarn, CPU)(positions)

    for ours, theirs in zip(actual, expected, strict=True):
        # transformers repeats the angles for the second half of the dimensions.
        torch.testing.assert_close(ours, theirs[0, :, : ours.shape[1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "frequencies"),
    [
        ("coder", {0: 1, 28: 8.65964e-4, 35: 9.65580e-5, 43: 4.95239e-6, 63: 3.21599e-8}),
        ("next", {14: 1.17274e-3, 18: 1.13694e-4, 23: 3.82874e-6, 31: 8.09679e-8}),
    ],
)
def test_frequencies_worked_out_from_the_formula(shape: str, frequencies: dict[int, float]) -> None:
    actual = inverse_frequencies(*SHAPES[shape], yarn_of())
    chosen = actual[list(frequencies)].tolist()
    assert chosen == pytest.approx(list(frequencies.values()), rel=1e-5)


def config_of(**changes: object) -> ModelConfig:
    return config_from_json({**random_config("qwen3"), **changes}, {}, "config.json")


@pytest.mark.parametrize(
    ("native", "window", "factor", "magnitude"),
    [
        (262_144, 1_048_576, 4.0, MAGNITUDE),
        (262_144, 393_216, 1.5, 1.0405465108),
        (32_768, 131_072, 4.0, MAGNITUDE),
        (32_768, 65_536, 2.0, 1.0693147181),
    ],
)
def test_a_larger_window_gets_the_smallest_factor_that_covers_it(
    native: int, window: int, factor: float, magnitude: float
) -> None:
    config = with_context_window(config_of(max_position_embeddings=native), window)
    assert config.context_window == window
    assert config.yarn is not None
    assert (config.yarn.factor, config.yarn.original_context) == (factor, native)
    assert config.yarn.attention_factor == pytest.approx(magnitude)


@pytest.mark.parametrize("window", [None, 1, 4096, 32_768])
def test_a_window_the_model_has_changes_nothing(window: int | None) -> None:
    config = config_of(max_position_embeddings=32_768)
    assert with_context_window(config, window) is config
    assert context_notice(config, window) is None


def test_a_window_beyond_all_scaling_is_refused_with_the_largest() -> None:
    config = config_of(max_position_embeddings=32_768)
    assert largest_context_window(config) == 131_072
    with pytest.raises(EngineError, match="131,073") as refusal:
        with_context_window(config, 131_073)
    assert "--context 131072" in refusal.value.hint


def test_scaling_that_the_checkpoint_brings_is_not_applied_twice() -> None:
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}
    config = config_of(max_position_embeddings=2048, rope_scaling=rope)
    assert with_context_window(config, 2048) is config
    with pytest.raises(EngineError) as refusal:
        with_context_window(config, 2049)
    assert "--context 2048" in refusal.value.hint


def test_the_person_is_told_what_scaling_costs() -> None:
    config = config_of(max_position_embeddings=NATIVE)
    assert context_notice(config, parse_context("1M")) == (
        "Context 1,048,576: YaRN factor 4 is on; answers to short prompts may be slightly worse."
    )


@pytest.mark.parametrize(
    ("text", "num_tokens"),
    [("4096", 4096), ("32K", 32_768), ("256k", 262_144), ("1M", 1_048_576), (" 2 m ", 2_097_152)],
)
def test_sizes_of_contexts(text: str, num_tokens: int) -> None:
    assert parse_context(text) == num_tokens


@pytest.mark.parametrize("text", ["", "0", "0K", "K", "1.5M", "-1", "1G", "32K tokens"])
def test_what_is_no_size_of_a_context(text: str) -> None:
    with pytest.raises(ValueError, match="256K"):
        parse_context(text)


NATIVE_HERE = 16
TOKENS = torch.randint(0, 380, (50,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_yarn_on_request_gives_the_logits_of_transformers(family: Family, tmp_path: Path) -> None:
    """Asked of us by a window, of transformers by its config."""
    plain = write_safetensors(tmp_path / "plain", family, max_position_embeddings=NATIVE_HERE)
    yarn = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": NATIVE_HERE,
    }
    scaled = write_safetensors(tmp_path / "scaled", family, rope_scaling=yarn)
    reference = AutoModelForCausalLM.from_pretrained(
        scaled, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKENS])).logits[0]

    loaded = load_model(
        plain, configure=lambda config: with_context_window(config, 4 * NATIVE_HERE)
    )
    run = PagedRun(loaded)
    # In two chunks, the second across the native window's end.
    actual = torch.cat((run.step({0: TOKENS[:10]}), run.step({0: TOKENS[10:]})))

    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def scores(directory: Path, context_window: int | None) -> tuple[list[float], int]:
    engine = Engine.load(directory, EngineOptions(context_window=context_window, num_threads=1))
    return engine.score(TOKENS[:20]), engine.context_window


def test_only_a_window_that_needs_it_changes_results(tmp_path: Path) -> None:
    directory = write_safetensors(tmp_path, "qwen3", max_position_embeddings=64)
    own, window = scores(directory, None)
    assert window == 64
    for wanted in (32, 64):
        assert scores(directory, wanted) == (own, wanted)
    scaled, window = scores(directory, 128)
    assert window == 128
    assert scaled != own


def test_the_engine_refuses_a_window_before_it_reads_weights(tmp_path: Path) -> None:
    directory = write_safetensors(tmp_path, "qwen3", max_position_embeddings=64)
    shares: list[float] = []
    with pytest.raises(EngineError, match="300 tokens"):
        Engine.load(directory, EngineOptions(context_window=300), shares.append)
    assert shares == []
