"""Calls of a real small model that does not open them with its tag."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from qcode.backends.local import LocalBackend
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import AnswerShape, ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.messages import AssistantMessage, UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.weights("0.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(300),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Search(Strict):
    pattern: str = Field(min_length=1)
    kind: Literal["name", "content"]
    limit: int = Field(ge=1, le=99)


class Stop(Strict):
    pass


MODELS: dict[str, type[Strict]] = {"search": Search, "stop": Stop}


@pytest.fixture
async def backend() -> AsyncIterator[LocalBackend]:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    backend = LocalBackend(path, name="small", options=EngineOptions(context_window=4096))
    yield backend
    await backend.aclose()


async def answer(backend: LocalBackend, begun: str, seed: int) -> AssistantMessage:
    """What the model makes of an answer that begins so; hot, so that it errs where it can."""
    tokenizer = (await backend.start().engine()).loaded.tokenizer
    request = ChatRequest(
        system="You work in a project by calling tools.",
        messages=(UserMessage(content="Find where the parser is defined."),),
        tools=tuple(
            ToolSpec(name=name, description=name, schema=model.model_json_schema())
            for name, model in MODELS.items()
        ),
        sampling=SamplingParams(temperature=1.4, seed=seed, max_tokens=120),
        answer=AnswerShape(prefix_ids=tuple(tokenizer.encode(begun))),
    )
    async with aclosing(backend.stream(request)) as chunks:
        *_, completed = [chunk async for chunk in chunks]
    assert isinstance(completed, Completed)
    return completed.message


async def test_calls_without_their_tag_obey_the_schema(backend: LocalBackend) -> None:
    openings = (
        "I shall look.\n\n<function=",
        '{"name": "search", "arguments"',
        '{\n  "name": "search",\n  "arguments":',
        '<tool_call>\n{"name": "search", "parameters"',
    )
    num_calls = 0
    for begun in openings:
        for seed in range(3):
            message = await answer(backend, begun, seed)
            if message.stop_reason == "max_tokens":
                continue  # a call that was cut is none
            calls = message.tool_calls
            assert calls, message.raw
            first = calls[0]
            MODELS[first.name].model_validate_json(first.arguments)
            num_calls += 1
    assert num_calls >= 6


async def test_fenced_and_quoted_calls_stay_free(backend: LocalBackend) -> None:
    tagged = "A call looks like this:\n```\n<function=other>\n</function>\n```\nIt is"
    message = await answer(backend, tagged, 0)

    assert message.text.startswith(tagged)
