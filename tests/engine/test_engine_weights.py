"""The engine on the real 0.5B file: it writes sensible code."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from qcode.backends.local import LocalBackend
from qcode.protocol.backends import AnswerShape, ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights,
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=160)


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
