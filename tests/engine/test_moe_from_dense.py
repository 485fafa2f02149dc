"""Mixtures of experts made from the real 0.5B file: they say what the dense model says."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.moe_from_dense import repeat_experts, split_experts
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.protocol.sampling import SamplingParams

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights("0.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

PROMPT = "def fibonacci(n: int) -> list[int]:\n"
MIXTURES = {
    "repeated": partial(repeat_experts, num_experts=3, experts_per_token=2),
    "split": partial(split_experts, num_experts=4),
}


def greedy_text(path: Path) -> str:
    engine = Engine.load(path, EngineOptions(context_window=256))
    tokenizer = engine.loaded.tokenizer
    sampling = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=24)
    engine.submit(tokenizer.encode(PROMPT), sampling)
    ids: list[int] = []
    while engine.has_work:
        for output in engine.step():
            ids += output.token_ids
    return tokenizer.decode(ids)


@pytest.fixture(scope="module")
def dense_model() -> Path:
    return Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"


@pytest.fixture(scope="module")
def dense_text(dense_model: Path) -> str:
    return greedy_text(dense_model)


@pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)
def test_a_mixture_says_what_the_dense_model_says(
    make: Callable[[Path, Path], None], dense_model: Path, dense_text: str, tmp_path: Path
) -> None:
    mixture = tmp_path / "mixture.gguf"
    make(dense_model, mixture)
    text = greedy_text(mixture)
    mixture.unlink()
    assert "return" in text
    assert text == dense_text
