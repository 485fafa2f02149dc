from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path

import pytest

from qcode.backends.scripted import ScriptedBackend, ScriptedCall, ScriptedStep
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Chunk, Completed, TextDelta, ToolCallDelta
from qcode.protocol.errors import (
    BackendUnavailable,
    InvalidResponse,
    RateLimited,
    SettingsError,
)
from qcode.protocol.messages import (
    AssistantMessage,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    Usage,
    UserMessage,
)

pytestmark = pytest.mark.anyio


def request(content: str = "hello") -> ChatRequest:
    return ChatRequest(system="", messages=(UserMessage(content=content),))


async def play(backend: ScriptedBackend, content: str = "hello") -> list[Chunk]:
    async with aclosing(backend.stream(request(content))) as stream:
        return [chunk async for chunk in stream]


async def test_a_step_streams_in_pieces_and_completes() -> None:
    call = ScriptedCall(name="read_file", arguments='{"path": "a.py"}', id="c1")
    step = ScriptedStep(reasoning="hm", text="I will look at it.", calls=(call,))
    backend = ScriptedBackend([step])
    chunks = await play(backend)
    texts = [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)]
    assert len(texts) > 1
    assert "".join(texts) == step.text
    pieces = [chunk for chunk in chunks if isinstance(chunk, ToolCallDelta)]
    assert [piece.name for piece in pieces if piece.name] == ["read_file"]
    assert "".join(piece.arguments for piece in pieces) == call.arguments
    assert chunks[-1] == Completed(
        message=AssistantMessage(
            blocks=(
                ReasoningBlock(text="hm"),
                TextBlock(text=step.text),
                ToolCall(id="c1", name="read_file", arguments=call.arguments),
            ),
            stop_reason="tool_calls",
            model="scripted",
        )
    )
    assert backend.requests == [request()]


SCRIPT = [
    {"text": "looking", "calls": [{"name": "list_directory"}], "usage": {"input_tokens": 3}},
    {"expect": "2 files", "text": "two files", "delay_s": 0.001},
    {"text": "I am", "error": {"type": "rate_limited", "message": "wait", "retry_after_s": 5}},
    {"error": "unavailable"},
]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SCRIPT),
        json.dumps({"steps": SCRIPT, "model": "scripted"}),
        "# a comment\n\n" + "\n".join(json.dumps(step) for step in SCRIPT),
    ],
)
async def test_scripts_are_read_from_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text(text, encoding="utf-8")
    backend = ScriptedBackend.from_file(path)
    first = (await play(backend))[-1]
    assert isinstance(first, Completed)
    assert first.message.tool_calls[0].arguments == "{}"
    assert first.message.usage == Usage(input_tokens=3)
    second = (await play(backend, "there are 2 files"))[-1]
    assert isinstance(second, Completed)
    assert second.message.text == "two files"
    with pytest.raises(RateLimited, match="wait") as limited:
        await play(backend)
    assert limited.value.retry_after_s == 5
    with pytest.raises(BackendUnavailable):
        await play(backend)
    with pytest.raises(InvalidResponse, match="4 steps"):
        await play(backend)


async def test_a_script_can_describe_its_model(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    head = {"model": "tiny", "context_window": 4096, "strength": "small", "steps": []}
    path.write_text(json.dumps(head), encoding="utf-8")
    model = ScriptedBackend.from_file(path).model
    assert (model.name, model.context_window, model.strength) == ("tiny", 4096, "small")


async def test_an_unmet_expectation_fails_the_step() -> None:
    backend = ScriptedBackend([ScriptedStep(text="done", expect="exit code 0")])
    with pytest.raises(InvalidResponse, match=r"'exit code 0'.*'exit code 1'"):
        await play(backend, "exit code 1")


async def test_an_error_comes_after_what_was_said() -> None:
    backend = ScriptedBackend([ScriptedStep(text="half", error=BackendUnavailable("lost"))])
    seen: list[Chunk] = []

    async def listen() -> None:
        async for chunk in backend.stream(request()):
            seen.append(chunk)

    with pytest.raises(BackendUnavailable, match="lost"):
        await listen()
    assert seen == [TextDelta(text="half")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{oops", "not a script"),
        ('"text"', "no list of steps"),
        ("[1]", "a step is an object"),
        ('[{"txet": "x"}]', "no 'txet'"),
        ('[{"calls": [{"arguments": {}}]}]', "a call is an object with a name"),
        ('[{"error": "explosion"}]', "an error is one of"),
        ('{"steps": [], "strength": "huge"}', "strength is"),
    ],
)
def test_what_is_not_a_script_is_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        ScriptedBackend.from_file(path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.jsonl"):
        ScriptedBackend.from_file(tmp_path / "none.jsonl")
