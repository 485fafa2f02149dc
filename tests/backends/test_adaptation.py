"""A server's dialect, learned from what it refuses and from what it sends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from chat_server import Answer, ChatServer, refuse, say, send

from qcode.backends.adaptation import adapted
from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.openai_compatible import OpenAICompatibleBackend
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed, Retrying
from qcode.protocol.errors import InvalidResponse
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.wire.openai_request import Dialect

pytestmark = pytest.mark.anyio

TOOL = ToolSpec(name="read_file", description="", schema={"type": "object"})
SAMPLING = SamplingParams(temperature=0.5, top_k=20, seed=1, max_tokens=100, stop=("END",))
THOUGHT = AssistantMessage(
    blocks=(ReasoningBlock(text="hm"), ToolCall(id="c", name="read_file", arguments="{}")),
    stop_reason="tool_calls",
    model="m",
)
HISTORY: tuple[Message, ...] = (
    UserMessage(content="hi"),
    THOUGHT,
    ToolMessage(call_id="c", name="read_file", content="x"),
)
REQUEST = ChatRequest(system="", messages=HISTORY, tools=(TOOL,), sampling=SAMPLING)


async def bodies_of(
    answers: Sequence[Answer],
    *,
    requests: Sequence[ChatRequest] = (REQUEST,),
    learned: list[EndpointProfile] | None = None,
    may_retry: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    kept = learned if learned is not None else []

    def keep(model: str, profile: EndpointProfile) -> None:
        assert model == "m"
        kept.append(profile)

    with ChatServer(answers) as server:
        backend = OpenAICompatibleBackend(
            base_url=server.url, model="m", on_learned=keep, jitter=lambda: 0.0, **options
        )
        try:
            for request in requests:
                async with aclosing(backend.stream(request)) as stream:
                    chunks = [chunk async for chunk in stream]
                assert isinstance(chunks[-1], Completed)
                assert may_retry or not any(isinstance(chunk, Retrying) for chunk in chunks)
        finally:
            await backend.aclose()
    return [request.body for request in server.requests]


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ("Unrecognized request argument supplied: top_k", {"top_k"}),
        ("[{'loc': ('body', 'stream_options'), 'msg': 'extra'}]", {"stream_options"}),
        ("Unsupported value: 'temperature' does not support 0.5", {"temperature"}),
        ("top_k and seed are not supported", {"top_k", "seed"}),
        ("'stop' is not supported with this model", {"stop"}),
    ],
)
async def test_an_optional_field_that_is_refused_is_left_out_from_then_on(
    words: str, absent: set[str]
) -> None:
    learned: list[EndpointProfile] = []
    answers = [refuse(400, words), say("a"), say("b")]
    first, *later = await bodies_of(answers, requests=(REQUEST, REQUEST), learned=learned)
    assert len(later) == 2
    for body in later:
        assert first.keys() - body.keys() == absent
    assert [profile.dialect.omitted for profile in learned] == [absent]


async def test_the_field_for_the_answers_length_is_the_one_the_server_has() -> None:
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    first, second = await bodies_of([refuse(400, words), say("a")])
    assert (first["max_tokens"], second["max_completion_tokens"]) == (100, 100)
    assert "max_tokens" not in second


async def test_a_refusal_that_names_nothing_optional_stays_one() -> None:
    with pytest.raises(InvalidResponse, match="unknown model"):
        await bodies_of([refuse(400, "unknown model m; stop here")])
    with pytest.raises(InvalidResponse):
        await bodies_of([refuse(400, "temperature must be at least 0.6")])


async def test_refusals_without_end_are_an_error() -> None:
    """A server that takes back what it asked for must not be asked for ever."""
    wants, hates = "reasoning_content is missing", "reasoning_content is not allowed"
    with pytest.raises(InvalidResponse):
        await bodies_of([refuse(400, wants), refuse(400, hates)] * 10)


def thought(field: str) -> Answer:
    return send(
        f'data: {{"choices": [{{"delta": {{"{field}": "why"}}}}]}}\n\n',
        'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n',
    )


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_goes_back_in_the_field_it_came_in(field: str) -> None:
    learned: list[EndpointProfile] = []
    answers = [thought(field), say("b"), thought(field)]
    first, second, _ = await bodies_of(answers, requests=[REQUEST] * 3, learned=learned)
    assert first["messages"][1].keys() == {"role", "content", "tool_calls"}
    assert second["messages"][1][field] == "hm"
    assert [profile.dialect.reasoning_field for profile in learned] == [field]


async def test_thinking_that_has_to_come_back_does_and_that_must_not_does_not() -> None:
    wanted = "The `reasoning_content` in the thinking mode must be passed back to the API."
    unwanted = "Extra inputs are not permitted: messages.1.reasoning_content"
    first, second = await bodies_of([refuse(400, wanted), say("a")])
    assert "reasoning_content" not in first["messages"][1]
    assert second["messages"][1]["reasoning_content"] == "hm"
    sends = EndpointProfile(dialect=Dialect(reasoning_field="reasoning_content"))
    first, second = await bodies_of([refuse(400, unwanted), say("a")], profile=sends)
    assert first["messages"][1]["reasoning_content"] == "hm"
    assert "reasoning_content" not in second["messages"][1]


def test_the_same_refusal_twice_teaches_nothing_new() -> None:
    body: Mapping[str, object] = {"top_k": 1}
    changed = adapted(Dialect(), "unknown field top_k", body)
    assert changed == Dialect(omitted=frozenset({"top_k"}))
    assert adapted(changed, "unknown field top_k", {}) is None
    dropped = adapted(Dialect(), "no reasoning_content", body)
    assert dropped == Dialect(reasoning="drop")
    assert adapted(dropped, "no reasoning_content", body) is None


# The room for an answer


async def test_an_answer_is_given_no_more_room_than_is_left() -> None:
    prompt = UserMessage(content="word " * 1000)
    request = ChatRequest(
        system="", messages=(prompt,), sampling=SamplingParams(max_tokens=100_000)
    )
    measured = Usage(input_tokens=1000, output_tokens=1)
    bodies = await bodies_of(
        [say("a", usage=measured), say("b")], requests=(request, request), context_window=8192
    )
    guessed, told = (body["max_tokens"] for body in bodies)
    assert 5_500 < guessed < 8_192 - 1_000  # three tokens to ten characters, until usage tells
    assert told == pytest.approx(8_192 - 1_000, abs=100)


async def test_room_is_not_taken_from_an_answer_where_the_window_is_unknown() -> None:
    request = ChatRequest(system="", messages=(), sampling=SamplingParams(max_tokens=100_000))
    (body,) = await bodies_of([say("a")], requests=(request,))
    assert body["max_tokens"] == 100_000


async def test_what_a_request_leaves_open_is_filled_in() -> None:
    request = ChatRequest(system="", messages=(), sampling=SamplingParams(temperature=0.0))
    defaults = SamplingParams(temperature=0.7, top_k=20, min_p=0.05)
    (body,) = await bodies_of([say("a")], requests=(request,), sampling=defaults)
    assert (body["temperature"], body["top_k"], body["min_p"]) == (0.0, 20, 0.05)


async def test_a_profile_is_used() -> None:
    profile = EndpointProfile(
        context_window=4096,
        dialect=Dialect(single_calls=True, omitted=frozenset({"stream_options"})),
    )
    (body,) = await bodies_of([say("a")], profile=profile)
    assert body["parallel_tool_calls"] is False
    assert "stream_options" not in body


async def test_a_server_that_streams_nothing_is_asked_for_all_at_once() -> None:
    message = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    whole = Answer(parts=(json.dumps(message).encode(),), content_type="application/json")
    first, second = await bodies_of([send(), whole], may_retry=True)
    assert (first["stream"], second["stream"]) == (True, False)
    assert "stream_options" not in second
