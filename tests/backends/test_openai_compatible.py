"""The HTTP backend against a real server on a loopback socket, and against its faults."""

from __future__ import annotations

import json
import socket
from contextlib import aclosing
from dataclasses import replace

import pytest
from chat_server import DROP, STALL, Answer, ChatServer, refuse, say, send

from qcode.backends.http import Timers
from qcode.backends.openai_compatible import OpenAICompatibleBackend
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Chunk, Completed, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.codec import message_decoder, to_json
from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
)
from qcode.protocol.messages import (
    AssistantMessage,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from qcode.protocol.tools import ToolSpec

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret"
READ_FILE = ToolSpec(
    name="read_file",
    description="Read a file.",
    schema={"type": "object", "properties": {"path": {"type": "string"}}},
)
REQUEST = ChatRequest(system="Be brief.", messages=(UserMessage(content="hello"),))
WITH_TOOLS = ChatRequest(
    system="Be brief.", messages=(UserMessage(content="hello"),), tools=(READ_FILE,)
)
IMPATIENT = Timers(first_token_s=0.8, idle_s=0.8)  # a busy machine pauses for less


def backend_for(url: str, **options: object) -> OpenAICompatibleBackend:
    settings: dict[str, object] = {
        "model": "test-model",
        "api_key": KEY,
        "jitter": lambda: 0.0,
        **options,
    }
    return OpenAICompatibleBackend(base_url=url, **settings)  # type: ignore[arg-type]


async def ask(backend: OpenAICompatibleBackend, request: ChatRequest = REQUEST) -> list[Chunk]:
    async with aclosing(backend):
        return await ask_open(backend, request)


async def ask_open(backend: OpenAICompatibleBackend, request: ChatRequest) -> list[Chunk]:
    async with aclosing(backend.stream(request)) as stream:
        return [chunk async for chunk in stream]


async def failure_of(url: str, **options: object) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await ask(backend_for(url, **options))
    assert KEY not in f"{caught.value} {caught.value.hint}"
    return caught.value


def answer_in(chunks: list[Chunk]) -> AssistantMessage:
    last = chunks[-1]
    assert isinstance(last, Completed)
    return last.message


def blocks_in(chunks: list[Chunk]) -> list[tuple[str, ...]]:
    """The answer without ids, which are made up."""
    shown: list[tuple[str, ...]] = []
    for block in answer_in(chunks).blocks:
        if isinstance(block, ToolCall):
            shown.append(("call", block.name, block.arguments))
        else:
            shown.append((block.type, block.text))
    return shown


async def test_an_answer_streams_and_completes() -> None:
    usage = Usage(input_tokens=100, output_tokens=7, cached_tokens=64)
    calls = [("read_file", {"path": "ä.py"}), ("read_file", {"path": "b.py"})]
    with ChatServer([say("Hello there", calls=calls, usage=usage)]) as server:
        chunks = await ask(backend_for(server.url), WITH_TOOLS)
    message = answer_in(chunks)
    assert message == AssistantMessage(
        blocks=(
            TextBlock(text="Hello there"),
            ToolCall(id="call_0", name="read_file", arguments='{"path": "\\u00e4.py"}'),
            ToolCall(id="call_1", name="read_file", arguments='{"path": "b.py"}'),
        ),
        stop_reason="tool_calls",
        model="test-model",
        usage=usage,
    )
    assert "".join(c.text for c in chunks if isinstance(c, TextDelta)) == "Hello there"
    for index, call in enumerate(message.tool_calls):
        pieces = [c for c in chunks if isinstance(c, ToolCallDelta) and c.index == index]
        assert pieces[0].name == "read_file"
        assert "".join(piece.arguments for piece in pieces) == call.arguments
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request.body["tools"][0]["function"]["name"] == "read_file"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_the_base_url_is_taken_as_people_write_it(suffix: str) -> None:
    with ChatServer([say("hi")]) as server:
        chunks = await ask(backend_for(f"http://127.0.0.1:{server.port}{suffix}"))
    assert answer_in(chunks).text == "hi"


async def test_a_bare_host_on_this_machine_needs_no_scheme() -> None:
    with ChatServer([say("hi")]) as server:
        chunks = await ask(backend_for(f"127.0.0.1:{server.port}"))
    assert answer_in(chunks).text == "hi"


async def test_without_a_model_the_first_one_listed_is_used() -> None:
    models = [{"id": "org/first", "max_model_len": 4096}, {"id": "second"}]
    with ChatServer([say("hi")], models=models) as server:
        backend = backend_for(server.url, model=None)
        await ask(backend)
    assert backend.model.name == "org/first"
    assert backend.model.context_window == 4096
    assert server.requests[-1].body["model"] == "org/first"


async def test_a_server_without_models_is_told_apart() -> None:
    with ChatServer([say("hi")], models=[{"object": "model"}]) as server:
        error = await failure_of(server.url, model=None)
    assert isinstance(error, InvalidResponse)
    assert "--model" in error.hint


async def test_extra_body_and_headers_are_sent() -> None:
    with ChatServer([say("hi")]) as server:
        options = {"extra_body": {"top_k": 3}, "headers": {"X-Team": "blue"}}
        await ask(backend_for(server.url, **options))
    assert server.requests[0].body["top_k"] == 3
    assert server.requests[0].headers["x-team"] == "blue"


async def test_nothing_answering_is_said_plainly() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        backend = backend_for(url)
        stream = backend.stream(REQUEST)
        first = await anext(stream)  # the try has failed and another is announced
        await stream.aclose()
        await backend.aclose()
    assert isinstance(first, Retrying)
    assert first.reason == f"nothing answers at {url}/v1: is the server running?"
    assert first.wait_s == 0


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refuse(401, f"bad key {KEY}"), AuthenticationFailed, "***"),
        (refuse(403, "not yours"), AuthenticationFailed, "not yours"),
        (refuse(404, "no such model"), InvalidResponse, "no such model"),
        (refuse(422, "bad field"), InvalidResponse, "bad field"),
        (
            refuse(400, "maximum context length is 10 tokens", code="context_length_exceeded"),
            ContextOverflow,
            "maximum context length is 10 tokens",
        ),
        (refuse(429, "slow down", retry_after="3600"), RateLimited, "slow down"),
        (refuse(302, headers={"Location": "http://elsewhere/v1"}), InvalidResponse, "302"),
        (
            Answer(parts=(b"<html>hi",), content_type="application/json"),
            InvalidResponse,
            "not JSON",
        ),
    ],
)
async def test_a_failure_that_stays_is_raised_at_once(
    answer: Answer, kind: type[BackendError], words: str
) -> None:
    with ChatServer([answer]) as server:
        error = await failure_of(server.url)
    assert type(error) is kind
    assert words in error.message
    assert server.url in error.message
    assert len(server.requests) == 1
    if isinstance(error, RateLimited):
        assert error.retry_after_s == 3600


@pytest.mark.parametrize(
    "trouble",
    [
        refuse(503, retry_after="0.01"),
        refuse(429, headers={"Retry-After-Ms": "10"}),
        say("Hel", fault=DROP),
        send(DROP),
        send('data: {"choices": [{"delta": {"content": "x"}}]}\n\n'),  # ends with no finish
        send("data: {oops\n\n" * 3, STALL),
        send('data: {"error": {"message": "out of memory"}}\n\n', STALL),
    ],
)
async def test_a_failure_that_passes_is_tried_again(trouble: Answer) -> None:
    with ChatServer([trouble, say("whole")]) as server:
        chunks = await ask(backend_for(server.url))
    retries = [chunk for chunk in chunks if isinstance(chunk, Retrying)]
    assert [retry.attempt for retry in retries] == [1]
    assert answer_in(chunks).text == "whole"


async def test_an_answer_that_keeps_breaking_off_fails() -> None:
    with ChatServer([say("Hel", fault=DROP)] * 3) as server:
        error = await failure_of(server.url)
    assert isinstance(error, BackendUnavailable)
    assert "broke off" in error.message
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "silent",
    [
        say("Hel", fault=STALL),
        send(STALL),
        send(*[": still there\n\n"] * 20, STALL),
    ],
)
async def test_silence_is_cut_short(silent: Answer) -> None:
    with ChatServer([silent, say("whole")]) as server:
        chunks = await ask(backend_for(server.url, timers=IMPATIENT))
    assert [chunk.attempt for chunk in chunks if isinstance(chunk, Retrying)] == [1]
    assert answer_in(chunks).text == "whole"


async def test_closing_the_stream_hangs_up() -> None:
    with ChatServer([say("Hello", fault=STALL)]) as server:
        backend = backend_for(server.url)
        stream = backend.stream(REQUEST)
        first = await anext(stream)
        assert isinstance(first, TextDelta)
        await stream.aclose()
        await backend.aclose()
    assert server.disconnects == 1


def event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


async def test_an_end_without_done_counts_when_the_answer_was_finished() -> None:
    with ChatServer([say("all of it", done=False)]) as server:
        chunks = await ask(backend_for(server.url))
    assert answer_in(chunks).text == "all of it"


async def test_event_streams_are_read_whatever_their_line_ends() -> None:
    text = "é😀\u2028end"
    body = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False).encode()
    stream = (
        b": hello\r\n\r\nevent: x\r\ndata:" + body + b"\r\n\r\n"
        b"data: not json\n\n"  # one damaged event is skipped
        b"data: []\r\r"
        b'data: {"choices":\ndata: []}\n\n' + event({}, "stop").rstrip()
    )
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    with ChatServer([send(*pieces)]) as server:
        chunks = await ask(backend_for(server.url))
    assert answer_in(chunks).text == text


async def test_a_server_that_does_not_stream_is_read_too() -> None:
    message = {
        "content": None,
        "tool_calls": [{"id": "a", "function": {"name": "read_file", "arguments": {"path": "x"}}}],
    }
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with ChatServer([Answer(parts=(body,), content_type="application/json")]) as server:
        chunks = await ask(backend_for(server.url), WITH_TOOLS)
    assert blocks_in(chunks) == [("call", "read_file", '{"path": "x"}')]
    assert answer_in(chunks).stop_reason == "tool_calls"


CALL_IN_TEXT = "Look:\n<function=read_file>\n<parameter=path>\na.py\n</parameter>\n</function>"


async def test_a_call_left_in_the_text_is_found_when_tools_were_offered() -> None:
    with ChatServer([say(CALL_IN_TEXT), say(CALL_IN_TEXT)]) as server:
        offered = await ask(backend_for(server.url), WITH_TOOLS)
        plain = await ask(backend_for(server.url), REQUEST)
    assert blocks_in(offered) == [
        ("text", "Look:"),
        ("call", "read_file", '{"path": "a.py"}'),
    ]
    assert answer_in(offered).stop_reason == "tool_calls"
    assert blocks_in(plain) == [("text", CALL_IN_TEXT)]


async def test_calls_the_server_reports_win_over_those_in_the_text() -> None:
    calls = [("read_file", {"path": "b.py"})]
    with ChatServer([say(CALL_IN_TEXT, calls=calls)]) as server:
        chunks = await ask(backend_for(server.url), WITH_TOOLS)
    assert blocks_in(chunks)[1:] == [("call", "read_file", '{"path": "b.py"}')]


async def test_thinking_is_kept_apart_wherever_it_comes() -> None:
    field = send(event({"reasoning_content": "hm"}), event({"content": "42"}, "stop"))
    inline = send(event({"content": "<think>\nhm\n</think>\n\n42"}, "stop"))
    with ChatServer([field, inline]) as server:
        answers = [answer_in(await ask(backend_for(server.url))) for _ in range(2)]
    for answer in answers:
        assert answer.blocks == (ReasoningBlock(text="hm"), TextBlock(text="42"))


async def test_detailed_thinking_goes_back_as_it_came() -> None:
    """Also to a request of a later process, which reads the conversation from its session."""
    details = [
        {"type": "reasoning.text", "text": "I must ", "signature": None, "index": 0},
        {"type": "reasoning.text", "text": "look.", "signature": "sig==", "index": 0},
        {"type": "reasoning.encrypted", "data": "ö/+=", "id": "call", "index": 1},
    ]
    pieces = [event({"reasoning": "hm", "reasoning_details": [item]}) for item in details]
    call = {"index": 0, "id": "a", "function": {"name": "read_file", "arguments": "{}"}}
    answers = [send(*pieces, event({"tool_calls": [call]}, "tool_calls")), say("1"), say("2")]
    with ChatServer(answers) as server:
        async with aclosing(backend_for(server.url)) as backend:
            first = answer_in(await ask_open(backend, WITH_TOOLS))
            result = ToolMessage(call_id="a", name="read_file", content="x")
            for message in (first, message_decoder().from_json(to_json(first))):
                said = (*WITH_TOOLS.messages, message, result)
                await ask_open(backend, replace(WITH_TOOLS, messages=said))
    for received in server.requests[1:]:
        sent = received.body["messages"][2]
        assert sent["reasoning_details"] == [
            {"type": "reasoning.text", "text": "I must look.", "signature": "sig==", "index": 0},
            details[2],
        ]
        assert "reasoning" not in sent


async def test_thinking_that_a_server_does_not_take_back_is_dropped() -> None:
    thinking = event({"reasoning_details": [{"type": "reasoning.text", "text": "a"}]})
    refusal = refuse(400, "messages.1.content.0: Invalid signature in thinking block")
    answers = [send(thinking, event({"content": "b"}, "stop")), refusal, say("c")]
    with ChatServer(answers) as server:
        async with aclosing(backend_for(server.url)) as backend:
            first = answer_in(await ask_open(backend, REQUEST))
            said = (*REQUEST.messages, first, UserMessage(content="go on"))
            assert answer_in(await ask_open(backend, replace(REQUEST, messages=said))).text == "c"
    assert "reasoning_details" in server.requests[1].body["messages"][2]
    assert "reasoning_details" not in server.requests[2].body["messages"][2]


async def test_a_call_cut_off_by_the_token_limit_is_not_made() -> None:
    piece = {"index": 0, "id": "a", "function": {"name": "read_file", "arguments": '{"path": "x'}}
    with ChatServer([send(event({"tool_calls": [piece]}), event({}, "length"))]) as server:
        chunks = await ask(backend_for(server.url), WITH_TOOLS)
    assert answer_in(chunks).tool_calls == ()
    assert answer_in(chunks).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    "flood",
    [b"data: " + b"x" * (2 << 20), b": " + b"x" * (2 << 20)],
)
async def test_a_line_without_end_is_refused(flood: bytes) -> None:
    with ChatServer([send(flood, STALL)]) as server:
        error = await failure_of(server.url)
    assert isinstance(error, InvalidResponse)
    assert "1 MiB" in error.message


async def test_secrets_in_the_url_are_sent_and_not_shown() -> None:
    with ChatServer([refuse(404, "gone")]) as server:
        url = f"http://user:hunter2@127.0.0.1:{server.port}/v1"
        error = await failure_of(url, api_key=None)
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpodW50ZXIy"
    assert "hunter2" not in error.message
    assert server.url in error.message
