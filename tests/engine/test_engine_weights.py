"""The engine on the real 0.5B file: it writes sensible code, and what llama.cpp writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcode.backends.local import LocalBackend
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.engine.sequence import TokenProbability
from qcode.protocol.backends import AnswerShape, ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.weights, pytest.mark.timeout(400)]

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=160)
NEAR_TIE = 0.1
"""Both programs round activations to 8 bits, each in its own way."""


def model_file() -> Path:
    return Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"


def complete(*requests: ChatRequest) -> list[Completed]:
    """One after the other, on one backend."""

    async def run() -> list[Completed]:
        backend = LocalBackend(model_file(), name="qwen2.5-coder:0.5b")
        answers = []
        for request in requests:
            async for chunk in backend.stream(request):
                if isinstance(chunk, Completed):
                    answers.append(chunk)
        await backend.aclose()
        return answers

    return asyncio.run(run())


def test_it_writes_a_function_ends_by_itself_and_can_be_pinned() -> None:
    question = ChatRequest(
        system="Answer with one Python code block and nothing else.",
        messages=(UserMessage(content="Write is_prime(n)."),),
        sampling=GREEDY,
    )
    pinned = ChatRequest(
        system="Name the function that has the bug.",
        messages=(UserMessage(content="mean([1, 2]) returns 2 instead of 1.5."),),
        sampling=GREEDY,
        answer=AnswerShape(grammar='start: "def " ("median" | "mean" | "mode") "("', trace=True),
    )

    free, named = complete(question, pinned)

    assert free.message.stop_reason == "end"
    code = free.message.text.partition("```python\n")[2].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(code, namespace)  # a fixed model, a fixed prompt, greedy: a known text
    is_prime = namespace["is_prime"]
    assert callable(is_prime)
    assert [n for n in range(2, 30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert named.message.text == "def mean("
    assert "".join(choice.text for choice in named.trace) == "def mean("


PROMPTS = (
    "def fibonacci(n):\n",
    "import re\n\n# Find all e-mail addresses in a text.\ndef find_addresses(text):\n",
    "<|im_start|>user\nWhat does git rebase do?<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.mark.peer
def test_greedy_text_is_llama_cpps_up_to_near_ties() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    peer = llama_cpp.Llama(str(model_file()), n_ctx=512, n_threads=2, verbose=False)
    engine = Engine.load(model_file(), EngineOptions())
    num_equal = 0
    for prompt in PROMPTS:
        ids = engine.loaded.tokenizer.encode_prompt([(prompt, True)])
        ours = list(traced(engine, ids, 32))
        theirs = peer.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0)
        for choice, token in zip(ours, theirs, strict=False):
            if choice.token_id != token:
                assert choice.runner_up_id == token
                assert choice.probability - choice.runner_up_probability < NEAR_TIE
                break
            num_equal += 1
        else:
            # Where ours ended before its limit, so does theirs.
            assert len(ours) == 32 or next(theirs) in engine.loaded.tokenizer.eos_ids
    peer.close()

    assert num_equal >= 60


def traced(engine: Engine, prompt: list[int], count: int) -> Iterator[TokenProbability]:
    sampling = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=count)
    engine.submit(prompt, sampling, trace=True)
    while engine.has_work:
        for output in engine.step():
            yield from output.probabilities
