"""Real model files beside llama.cpp's recorded answers to prompts and probabilities of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import TESTS
from benchmarks.models.engine_logits import RecordedEngine
from qcode.engine.options import EngineOptions

GREEDY = TESTS / "golden" / "llama_cpp_greedy.json"
LIKELIHOODS = TESTS / "golden" / "llama_cpp_nll.json"
SKIPPED = 1
"""Predictions of a text that are not compared, as in tests/engine/test_llama_cpp_nll.py: one that
is made from the first token alone is mostly rounding."""
OPTIONS = EngineOptions(device="cpu", context_window=2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealFileCheck:
    """`equal_tokens` of `answer_tokens` are those that llama.cpp chose after the same text; the
    likelihoods are means over all tokens of the recorded texts, in nats."""

    answer_tokens: int
    equal_tokens: int
    scored_tokens: int
    mean_nll: float
    llama_cpp_mean_nll: float


def file_names() -> list[str]:
    """The files for which there are recordings."""
    return [model["model"] for model in json.loads(GREEDY.read_text())["models"]]


def folder() -> Path | None:
    """Where the files are: QCODE_TEST_MODELS, as for the tests."""
    given = os.environ.get("QCODE_TEST_MODELS")
    return Path(given) if given else None


def check_real_file(file: Path) -> RealFileCheck:
    engine = RecordedEngine(file, OPTIONS)
    answers = [_equal_tokens(engine, answer) for answer in _recorded(GREEDY, file, "answers")]
    ours, theirs = [], []
    for text in _recorded(LIKELIHOODS, file, "texts"):
        log_probabilities = torch.log_softmax(engine.prefill(text["ids"]), dim=-1)
        targets = torch.tensor(text["ids"][1:])[:, None]
        ours += log_probabilities.gather(1, targets).squeeze(1).tolist()[SKIPPED:]
        theirs += text["logprobs"][SKIPPED:]
    return RealFileCheck(
        answer_tokens=sum(total for _, total in answers),
        equal_tokens=sum(equal for equal, _ in answers),
        scored_tokens=len(ours),
        mean_nll=-sum(ours) / len(ours),
        llama_cpp_mean_nll=-sum(theirs) / len(theirs),
    )


def _recorded(golden: Path, file: Path, key: str) -> Iterator[dict[str, Any]]:
    for model in json.loads(golden.read_text())["models"]:
        if model["model"] == file.name:
            yield from model[key]


def _equal_tokens(engine: RecordedEngine, answer: dict[str, Any]) -> tuple[int, int]:
    """How many of the answer's tokens are our first choice after those before it."""
    tokens = answer["token_ids"]
    logits = engine.prefill([*answer["prompt_ids"], *tokens])
    chosen = logits[len(answer["prompt_ids"]) - 1 :].argmax(dim=-1).tolist()
    return sum(a == b for a, b in zip(chosen, tokens, strict=True)), len(tokens)
