"""Greedy text on the real Qwen2.5-Coder files is llama.cpp's, token by token.

tests/golden/llama_cpp_greedy.json is what llama.cpp answered, written by
benchmarks/record_llama_cpp.py, so that nobody needs llama.cpp to run this.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.sequence import TokenLogprobs
from qcode.protocol.sampling import SamplingParams

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights("0.5b", "1.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

GOLDEN = Path(__file__).parent.parent / "golden" / "llama_cpp_greedy.json"
MODELS = ("qwen2.5-coder-0.5b.gguf", "qwen2.5-coder-1.5b.gguf")

MAX_TIE_RATIO = 1.35
"""Both programs round activations to 8 bits, each in blocks and sums of its own. On these answers
the logarithm of the ratio of the two best tokens differs between them by 0.1 (root mean square) and
0.3 at most, which can turn a ratio of up to e^0.3 round.
"""

MIN_AGREEMENT = 0.97
"""Measured: 0.99."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What llama.cpp wrote. `ended` says that a token that ends answers came after `token_ids`."""

    prompt: str
    text: str
    prompt_ids: list[int]
    token_ids: list[int]
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An engine, and llama.cpp's answers for the very file it runs."""

    engine: Engine
    answers: list[Answer]


@pytest.fixture(scope="module", params=MODELS)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / request.param
    [recording] = [m for m in json.loads(GOLDEN.read_text())["models"] if m["model"] == path.name]
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == recording["sha256"]
    answers = [Answer(**answer) for answer in recording["answers"]]
    # llama.cpp kept keys and values in float16 when these answers were recorded.
    engine = Engine.load(path, EngineOptions(kv_dtype="float16"))
    return Recorded(engine=engine, answers=answers)


def test_prompts_have_llama_cpps_ids(recorded: Recorded) -> None:
    tokenizer = recorded.engine.loaded.tokenizer
    assert len(recorded.answers) == 12
    for answer in recorded.answers:
        assert tokenizer.encode_prompt([(answer.text, True)]) == answer.prompt_ids, answer.prompt


def test_greedy_text_is_llama_cpps_up_to_near_ties(recorded: Recorded) -> None:
    num_tokens = num_ties = 0
    for answer in recorded.answers:
        num_tokens += len(answer.token_ids)
        for position, choice in disagreements(recorded.engine, answer):
            where = f"{answer.prompt}, token {position}: {choice}"
            runner_up, logprob = choice.top[1]
            assert runner_up == answer.token_ids[position], where
            assert choice.logprob < math.log(MAX_TIE_RATIO) + logprob, where
            num_ties += 1
    assert num_tokens > 250
    assert num_ties <= (1 - MIN_AGREEMENT) * num_tokens


def disagreements(engine: Engine, answer: Answer) -> Iterator[tuple[int, TokenLogprobs]]:
    """Our choices that are not llama.cpp's, and where. After each of them we go on from its token,
    so that every recorded token is compared after the same text. We must end where it ended."""
    start = 0
    while True:
        expected = answer.token_ids[start:]
        ours = greedy(engine, answer, start)
        pairs = enumerate(zip(ours, expected, strict=False))
        wrong = next((i for i, (choice, token) in pairs if choice.token_id != token), None)
        if wrong is None:
            # The choice of an end token is not traced, so there is no telling whether it was close.
            assert len(ours) == len(expected), f"{answer.prompt}: ends elsewhere"
            return
        yield start + wrong, ours[wrong]
        start += wrong + 1


def greedy(engine: Engine, answer: Answer, start: int) -> list[TokenLogprobs]:
    """Our tokens after the prompt and the first `start` recorded ones. Where llama.cpp ended there
    is room for one more."""
    sampling = SamplingParams(
        temperature=0,
        repetition_penalty=1.0,
        max_tokens=len(answer.token_ids) + answer.ended,
        logprobs=2,
    )
    prefix = answer.token_ids[:start]
    engine.submit(answer.prompt_ids, sampling, prefix_ids=prefix)
    choices: list[TokenLogprobs] = []
    while engine.has_work:
        for output in engine.step():
            choices += output.logprobs
    return choices
