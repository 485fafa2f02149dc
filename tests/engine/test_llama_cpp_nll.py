"""The real Qwen2.5-Coder files hold texts as likely here as in llama.cpp.

tests/golden/llama_cpp_nll.json is what llama.cpp says of each token, written by
benchmarks/record_llama_cpp.py, so that nobody needs llama.cpp to run this.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights("0.5b", "1.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

GOLDEN = Path(__file__).parent.parent / "golden" / "llama_cpp_nll.json"
MODELS = ("qwen2.5-coder-0.5b.gguf", "qwen2.5-coder-1.5b.gguf")

NUM_TOKENS = 64
"""Of each text, so that this takes seconds; more of them change the differences little."""

NUM_EXACT_TEXTS = 4
"""How many texts are also scored in exact float32, which is several times slower."""

SKIPPED = 1
"""How many tokens of each text are not compared. The first is predicted from one token alone, and
the hidden state of a text's first token has a few values thousands of times larger than the rest
(Sun et al. 2024, "Massive activations"). llama.cpp rounds to 8 bits in blocks of 256 values, where
one of these drowns all others; here blocks have 32. So its log-probability is up to 8.5 nats from
that of exact float32 maths for the 1.5B, ours within 1.2. Later tokens hardly notice.
"""

MAX_RMS = 0.09
"""Nats between the log-probabilities of single tokens, root mean square. Both programs round
activations to 8 bits, each in blocks and sums of its own. Measured: 0.056 for the 0.5B and 0.063
for the 1.5B; exact float32 lies as far from llama.cpp, so most of it is llama.cpp's rounding.
"""

MAX_TEXT_DIFFERENCE = 0.05
"""Nats a token between the mean negative log-likelihoods of one text. If single tokens differed
independently, means over 62 of them would by 0.063 / sqrt(62) = 0.008. Measured: 0.03 for the most
surprising text, of 22."""

MAX_DIFFERENCE = 0.007
"""The same over all texts: four times 0.063 / sqrt(1364). Measured: 0.0015 and 0.0001."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What llama.cpp says of a text: the log-probability of each token after the first."""

    name: str
    text: str
    ids: list[int]
    logprobs: list[float]
    mean_nll: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A model file, and what llama.cpp says of the very same."""

    path: Path
    texts: list[Text]


@pytest.fixture(scope="module", params=MODELS)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / request.param
    [recording] = [m for m in json.loads(GOLDEN.read_text())["models"] if m["model"] == path.name]
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == recording["sha256"]
    return Recorded(path=path, texts=[Text(**text) for text in recording["texts"]])


def scores_of(engine: Engine, texts: Sequence[Text]) -> list[Tensor]:
    """As `Engine.score` of each text's beginning, in as few steps as they fit in."""
    requests = [engine.submit_score(text.ids[:NUM_TOKENS]) for text in texts]
    scores: dict[int, list[float]] = {request: [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            scores[output.request_id] += output.scores
    return [torch.tensor(scores[request])[SKIPPED:] for request in requests]


def llama_cpp_scores_of(texts: Sequence[Text]) -> list[Tensor]:
    return [torch.tensor(text.logprobs)[SKIPPED : NUM_TOKENS - 1] for text in texts]


def test_texts_are_as_likely_as_llama_cpp_holds_them(recorded: Recorded) -> None:
    texts = recorded.texts
    engine = Engine.load(recorded.path, EngineOptions(context_window=2048))
    tokenizer = engine.loaded.tokenizer
    assert len(texts) >= 20
    assert all(60 <= len(text.ids) <= 200 for text in texts)
    assert all(tokenizer.encode(text.text) == text.ids for text in texts)

    ours, theirs = scores_of(engine, texts), llama_cpp_scores_of(texts)

    for text, left, right in zip(texts, ours, theirs, strict=True):
        assert abs(float((left - right).mean())) < MAX_TEXT_DIFFERENCE, text.name
    apart = torch.cat(ours) - torch.cat(theirs)
    assert abs(float(apart.mean())) < MAX_DIFFERENCE
    assert float(apart.square().mean().sqrt()) < MAX_RMS


def test_exact_float32_agrees_too(recorded: Recorded) -> None:
    texts = recorded.texts[:: len(recorded.texts) // NUM_EXACT_TEXTS][:NUM_EXACT_TEXTS]
    engine = Engine.load(recorded.path, EngineOptions(context_window=2048, dtype="float32"))

    ours, theirs = scores_of(engine, texts), llama_cpp_scores_of(texts)

    for text, left, right in zip(texts, ours, theirs, strict=True):
        assert abs(float((left - right).mean())) < MAX_TEXT_DIFFERENCE, text.name
    apart = torch.cat(ours) - torch.cat(theirs)
    assert float(apart.square().mean().sqrt()) < MAX_RMS
