"""Requests written from remembered messages say the same as requests written anew."""

from __future__ import annotations

import json
from dataclasses import replace

from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.wire.openai_request import Dialect, JsonObject, encode_request
from qcode.wire.written_messages import WrittenMessages

TOOL = ToolSpec(name="read", description="", schema={"type": "object"})


def answer(number: int) -> AssistantMessage:
    return AssistantMessage(
        blocks=(
            ReasoningBlock(text="hm"),
            TextBlock(text=f'"messages":[] \u00e9 {number}'),
            ToolCall(id=f"c{number}", name="read", arguments='{"path": "a"}'),
        ),
        stop_reason="tool_calls",
        model="m",
    )


def result(number: int) -> ToolMessage:
    return ToolMessage(call_id=f"c{number}", name="read", content="x = 1\n" * 100)


def request(messages: list[Message]) -> ChatRequest:
    return ChatRequest(
        system='You are "messages":[].',
        messages=tuple(messages),
        tools=(TOOL,),
        sampling=SamplingParams(max_tokens=5),
    )


def body_of(written: WrittenMessages, asked: ChatRequest, dialect: Dialect) -> JsonObject:
    messages = written.encode(asked.messages, dialect)
    return encode_request(
        asked, model="m", dialect=dialect, messages=messages, extra_body={"keep": {"messages": []}}
    )


def sent(written: WrittenMessages, asked: ChatRequest, dialect: Dialect) -> object:
    return json.loads(written.request(body_of(written, asked, dialect)))


def anew(asked: ChatRequest, dialect: Dialect) -> object:
    extra: JsonObject = {"keep": {"messages": []}}
    return json.loads(
        json.dumps(encode_request(asked, model="m", dialect=dialect, extra_body=extra))
    )


def test_each_message_is_written_once_however_long_the_conversation_gets() -> None:
    written, dialect = WrittenMessages(), Dialect()
    messages: list[Message] = [UserMessage(content="begin")]
    for number in range(30):
        asked = request(messages)
        assert sent(written, asked, dialect) == anew(asked, dialect)
        assert sent(written, asked, dialect) == anew(asked, dialect)  # a second try
        assert written.num_written == len(messages)
        messages += [answer(number), result(number)]


def test_a_shortened_conversation_costs_what_changed_in_it() -> None:
    written, dialect = WrittenMessages(), Dialect()
    messages: list[Message] = [UserMessage(content="begin"), answer(0), result(0), answer(1)]
    sent(written, request(messages), dialect)
    messages[2] = replace(result(0), content="[dropped]")
    assert sent(written, request(messages), dialect) == anew(request(messages), dialect)
    assert written.num_written == 5


def test_another_dialect_is_written_anew() -> None:
    written = WrittenMessages()
    messages: list[Message] = [UserMessage(content="begin"), answer(0), result(0)]
    for dialect in (Dialect(), Dialect(reasoning="require"), Dialect(reasoning="drop")):
        assert sent(written, request(messages), dialect) == anew(request(messages), dialect)
    assert written.num_written == 9


def test_two_conversations_may_take_turns() -> None:
    written, dialect = WrittenMessages(), Dialect()
    first = request([UserMessage(content="one"), answer(0), result(0)])
    second = request([UserMessage(content="two"), answer(1), result(1)])
    bodies = [body_of(written, asked, dialect) for asked in (first, second, first)]
    for body, asked in zip(bodies, (first, second, first), strict=True):
        assert json.loads(written.request(body)) == anew(asked, dialect)


def test_half_a_character_does_not_stop_a_request() -> None:
    written, dialect = WrittenMessages(), Dialect()
    asked = request([UserMessage(content="a\udc80b")])
    assert b'"a?b"' in written.request(body_of(written, asked, dialect))


def test_the_length_is_that_of_messages_and_tools() -> None:
    written, dialect = WrittenMessages(), Dialect()
    short = body_of(written, request([UserMessage(content="begin")]), dialect)
    length = written.num_bytes(short)
    long = body_of(written, request([UserMessage(content="begin" + "x" * 1000)]), dialect)
    assert written.num_bytes(long) == length + 1000
    assert 100 < length < 300
