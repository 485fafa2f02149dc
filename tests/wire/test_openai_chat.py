"""Both directions of the Chat Completions format, and what servers are known to get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Chunk, Completed, ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    PeerError,
    RateLimited,
)
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.wire.openai_chat import StreamDecoder, StreamEncoder
from qcode.wire.openai_errors import error_from_payload
from qcode.wire.openai_request import Dialect, decode_request, encode_request
from qcode.wire.tool_call_stream import ToolCallStream

# Requests

texts = st.text(max_size=20)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
arguments = st.dictionaries(names, st.integers() | texts | st.booleans(), max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    messages: list[Message] = [UserMessage(content=draw(texts))]
    for turn in range(draw(st.integers(0, 3))):
        calls = tuple(
            ToolCall(id=f"c{turn}_{n}", name=draw(names), arguments=json.dumps(draw(arguments)))
            for n in range(draw(st.integers(0, 2)))
        )
        text = draw(texts)
        said = (TextBlock(text=text),) if text else ()
        messages.append(
            AssistantMessage(
                blocks=(*said, *calls), stop_reason="tool_calls" if calls else "end", model=""
            )
        )
        messages.extend(
            ToolMessage(call_id=call.id, name=call.name, content=draw(texts)) for call in calls
        )
        messages.append(UserMessage(content=draw(texts)))
    return tuple(messages)


requests = st.builds(
    ChatRequest,
    system=texts,
    messages=conversations(),
    tools=st.lists(
        st.builds(ToolSpec, name=names, description=texts, schema=st.just({"type": "object"})),
        max_size=2,
    ).map(tuple),
    sampling=st.builds(
        SamplingParams,
        temperature=st.none() | st.floats(0, 2),
        top_k=st.none() | st.integers(1, 50),
        seed=st.none() | st.integers(0, 99),
        max_tokens=st.none() | st.integers(1, 99),
        min_p=st.none() | st.floats(0, 1),
        presence_penalty=st.none() | st.floats(-2, 2),
        frequency_penalty=st.none() | st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, 10**6), st.floats(-100, 100), max_size=2).map(
            lambda biases: tuple(biases.items())
        ),
        stop=st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
        stop_ids=st.lists(st.integers(0, 10**6), max_size=2).map(tuple),
        ignore_eos=st.booleans(),
        logprobs=st.none() | st.integers(0, 20),
    ),
)


@given(requests)
def test_a_server_reads_the_request_a_client_wrote(request: ChatRequest) -> None:
    body = json.loads(json.dumps(encode_request(request, model="m")))
    decoded = decode_request(body)
    assert decoded.request == request
    assert (decoded.model, decoded.stream, decoded.include_usage) == ("m", True, True)


def test_what_is_unset_is_not_sent() -> None:
    request = ChatRequest(system="", messages=(UserMessage(content="hi"),))
    assert encode_request(request, model="m", extra_body={"top_k": 5, "stream": False}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "stream_options": {"include_usage": True},
        "top_k": 5,
    }


@pytest.mark.parametrize("broken", ["{oops", '"text"', "[1]", ""])
def test_arguments_that_are_no_object_are_not_sent_back(broken: str) -> None:
    call = ToolCall(id="c", name="f", arguments=broken)
    message = AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="m", raw="secret")
    body: Any = encode_request(ChatRequest(system="", messages=(message,)), model="m")
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        }
    ]


def test_requests_of_other_clients_are_read() -> None:
    decoded = decode_request(
        {
            "messages": [
                {"role": "developer", "content": "a"},
                {"role": "system", "content": [{"type": "text", "text": "b"}]},
                {"role": "user", "content": [{"type": "text", "text": "x"}, {"text": "y"}]},
                {"role": "assistant", "content": None},
            ],
            "max_tokens": 5,
            "max_completion_tokens": 6.0,
            "stop": "END",
            "store": True,
        }
    )
    assert decoded.request.system == "a\n\nb"
    assert decoded.request.messages[0] == UserMessage(content="xy")
    assert decoded.request.sampling == SamplingParams(max_tokens=6, stop=("END",))
    assert not decoded.stream


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"messages": []},
        {"messages": ["hi"]},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "content": "x"}], "temperature": "hot"},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1.5},
        {"messages": [{"role": "user", "content": "x"}], "logit_bias": [5]},
        {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"five": 1}},
        {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"9" * 5000: 1}},
        {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": None}},
        {"messages": [{"role": "user", "content": "x"}], "stop_token_ids": ["<eos>"]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]},
    ],
)
def test_unreadable_requests_are_refused(body: object) -> None:
    with pytest.raises(PeerError):
        decode_request(body)


# Streams


def decode(events: Iterable[Any]) -> tuple[StreamDecoder, list[Chunk], tuple[ToolCall, ...]]:
    decoder = StreamDecoder()
    chunks: list[Chunk] = []
    for event in events:
        chunks.extend(decoder.feed(json.loads(json.dumps(event))))
    last, calls = decoder.calls.finish(truncated=decoder.truncated)
    return decoder, [*chunks, *last], calls


deltas = st.lists(
    st.builds(TextDelta, text=st.text(min_size=1, max_size=5))
    | st.builds(ReasoningDelta, text=st.text(min_size=1, max_size=5)),
    max_size=5,
)


@given(deltas, st.lists(arguments, max_size=3), st.integers(1, 5))
def test_a_client_reads_the_stream_a_server_wrote(
    said: list[Chunk], written: list[dict[str, object]], size: int
) -> None:
    calls = tuple(
        ToolCall(id=f"call_{n}", name=f"tool_{n}", arguments=json.dumps(one))
        for n, one in enumerate(written)
    )
    message = AssistantMessage(
        blocks=calls,
        stop_reason="tool_calls" if calls else "end",
        model="m",
        usage=Usage(input_tokens=9, output_tokens=3, cached_tokens=4),
    )
    chunks = list(said)
    for index, call in enumerate(calls):
        chunks.append(ToolCallDelta(index=index, call_id=call.id, name=call.name))
        for at in range(0, len(call.arguments), size):
            piece = call.arguments[at : at + size]
            chunks.append(ToolCallDelta(index=index, call_id=call.id, arguments=piece))
    encoder = StreamEncoder(id="x", model="m", created=1)
    events = [encoder.start()]
    for chunk in [*chunks, Completed(message=message)]:
        events.extend(encoder.encode(chunk))
    decoder, read, read_calls = decode(events)
    assert read == chunks
    assert read_calls == calls
    assert (decoder.usage, decoder.model, decoder.finished) == (message.usage, "m", True)


def call_event(*items: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"tool_calls": list(items)}, "finish_reason": finish}]}


def piece(arguments: object = None, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    kept = {key: value for key, value in function.items() if value is not None}
    return {**fields, "function": kept}


TWO = [("a", '{"x": 1}'), ("b", '{"y": 2}')]

QUIRKS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "as specified": (
        [
            call_event(piece("", name="a", index=0, id="1")),
            call_event(piece('{"x"', index=0)),
            call_event(piece(": 1}", index=0)),
            call_event(piece("", name="b", index=1, id="2")),
            call_event(piece('{"y": 2}', index=1)),
        ],
        TWO,
    ),
    "interleaved": (
        [
            call_event(piece('{"x"', name="a", index=0, id="1")),
            call_event(piece('{"y"', name="b", index=1, id="2")),
            call_event(piece(": 1}", index=0), piece(": 2}", index=1)),
        ],
        TWO,
    ),
    "no index, ids in every piece": (
        [
            call_event(piece('{"x"', name="a", id="1")),
            call_event(piece(": 1}", id="1")),
            call_event(piece('{"y": 2}', name="b", id="2")),
        ],
        TWO,
    ),
    "no index, no id": (
        [
            call_event(piece('{"x"', name="a")),
            call_event(piece(": 1}")),
            call_event(piece('{"y": 2}', name="b")),
        ],
        TWO,
    ),
    "null index, several items in one delta": (
        [
            call_event(
                piece('{"x": 1}', name="a", index=None), piece('{"y": 2}', name="b", index=None)
            )
        ],
        TWO,
    ),
    "null index, continued by position": (
        [
            call_event(piece("", name="a", index=None), piece("", name="b", index=None)),
            call_event(piece('{"x": 1}', index=None), piece('{"y": 2}', index=None)),
        ],
        TWO,
    ),
    "index always 0, ids differ": (
        [
            call_event(piece('{"x": 1}', name="a", index=0, id="1")),
            call_event(piece('{"y": 2}', name="b", index=0, id="2")),
        ],
        TWO,
    ),
    "index always 0, no ids": (
        [
            call_event(piece('{"x": 1}', name="a", index=0)),
            call_event(piece('{"y": 2}', name="b", index=0)),
        ],
        TWO,
    ),
    "index starts at 1 and skips": (
        [
            call_event(piece('{"x": 1}', name="a", index=1, id="1")),
            call_event(piece('{"y": 2}', name="b", index=5, id="2")),
        ],
        TWO,
    ),
    "wrong index, right id": (
        [
            call_event(piece('{"x"', name="a", index=0, id="1")),
            call_event(piece('{"y": 2}', name="b", index=1, id="2")),
            call_event(piece(": 1}", index=1, id="1")),
        ],
        TWO,
    ),
    "blank ids": (
        [
            call_event(piece('{"x"', name="a", index=0, id=" ")),
            call_event(piece(": 1}", index=0, id="")),
            call_event(piece('{"y": 2}', name="b", index=1, id="")),
        ],
        TWO,
    ),
    "id after the first piece": (
        [
            call_event(piece("", name="a", index=0)),
            call_event(piece('{"x": 1}', index=0, id="1")),
            call_event(piece('{"y": 2}', name="b", index=1, id="2")),
        ],
        TWO,
    ),
    "name repeated and emptied": (
        [
            call_event(piece('{"x"', name="a", index=0, id="1")),
            call_event(piece(": 1", name="a", index=0)),
            call_event(piece("}", name="", index=0)),
            call_event(piece('{"y": 2}', name="b", index=1, id="2")),
        ],
        TWO,
    ),
    "name after the first piece": (
        [
            call_event(piece("", index=0, id="1")),
            call_event(piece('{"x": 1}', name="a", index=0)),
            call_event(piece('{"y": 2}', name="b", index=1)),
        ],
        TWO,
    ),
    "a finished call sent again": (
        [
            call_event(piece('{"x": 1}', name="a", index=0, id="1")),
            call_event(piece('{"x": 1}', name="a", index=0, id="1")),
            call_event(piece('{"y": 2}', name="b", index=1, id="2"), finish="stop"),
        ],
        TWO,
    ),
    "arguments as an object": (
        [call_event(piece({"x": 1}, name="a", index=0), piece({"y": 2}, name="b", index=1))],
        TWO,
    ),
    "no arguments": (
        [call_event(piece(name="a", index=0), piece("", name="b", index=1), finish="stop")],
        [("a", "{}"), ("b", "{}")],
    ),
    "brackets and quotes in strings": (
        [
            call_event(piece('{"x": "}\\', name="a", index=0)),
            call_event(piece('"{"', index=0)),
            call_event(piece("}", index=0)),
            call_event(piece('{"y": 2}', name="b", index=0)),
        ],
        [("a", '{"x": "}\\"{"}'), ("b", '{"y": 2}')],
    ),
    "the old function_call": (
        [
            {"choices": [{"delta": {"function_call": {"name": "a", "arguments": '{"x"'}}}]},
            {"choices": [{"delta": {"function_call": {"arguments": ": 1}"}}}]},
        ],
        TWO[:1],
    ),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_calls_are_put_together_however_they_are_numbered(quirk: str) -> None:
    events, expected = QUIRKS[quirk]
    _, chunks, calls = decode(events)
    assert [(call.name, call.arguments) for call in calls] == expected
    assert len({call.id for call in calls}) == len(calls)
    for number, call in enumerate(calls):
        sent = [c for c in chunks if isinstance(c, ToolCallDelta) and c.index == number]
        assert {c.call_id for c in sent} == {call.id}
        assert [c.name for c in sent if c.name] == [call.name] == [sent[0].name]
        assert "".join(c.arguments for c in sent) == call.arguments


def test_ids_of_the_server_are_kept() -> None:
    _, _, calls = decode([call_event(piece("{}", name="a", index=0, id="call_xyz"))])
    assert calls[0].id == "call_xyz"


def test_half_a_call_is_left_out_of_an_answer_cut_short() -> None:
    half = call_event(
        piece("{}", name="a", index=0), piece('{"x', name="b", index=1), finish="length"
    )
    decoder, _, calls = decode([half])
    assert decoder.truncated
    assert [call.name for call in calls] == ["a"]


def test_endless_arguments_are_refused() -> None:
    stream = ToolCallStream()
    list(stream.feed([piece("x" * (1 << 20), name="a", index=0)]))
    with pytest.raises(InvalidResponse):
        list(stream.feed([piece("x", index=0)]))


EVENT_KEYS = [
    "choices",
    "delta",
    "message",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "index",
    "id",
    "content",
    "usage",
    "model",
    "finish_reason",
]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(EVENT_KEYS), inner, max_size=5)
    ),
    max_leaves=20,
)
PIECES_OF_CALLS = st.lists(st.fixed_dictionaries({"id": ANY_JSON, "function": ANY_JSON}))


@given(
    ANY_JSON
    | ANY_JSON.map(lambda delta: {"choices": [{"delta": delta}]})
    | PIECES_OF_CALLS.map(lambda calls: {"choices": [{"delta": {"tool_calls": calls}}]})
)
def test_any_event_is_read_or_refused(event: object) -> None:
    decoder = StreamDecoder()
    if isinstance(event, dict):
        deltas = decoder.feed(event)
        last, calls = decoder.calls.finish()
        written = {call.id: "" for call in calls}
        for delta in (*deltas, *last):
            if isinstance(delta, ToolCallDelta):
                written[delta.call_id] += delta.arguments
        assert written == {call.id: call.arguments if call.name else "" for call in calls}


def test_usage_may_come_at_any_time() -> None:
    events = [
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": None}},
        {"choices": [{"delta": {"content": "x"}}], "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    ]
    decoder, _, _ = decode(events)
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(key: str) -> None:
    _, chunks, _ = decode([{"choices": [{"delta": {key: "hm", "content": None}}]}])
    assert chunks == [ReasoningDelta(text="hm")]


DETAILS = [
    {"type": "reasoning.summary", "summary": "Plan", "id": "r", "format": "f", "index": 0},
    {"type": "reasoning.text", "text": "I look", "signature": None, "format": "f", "index": 1},
    {"type": "reasoning.encrypted", "data": "AAA=", "id": "s", "format": "f", "index": 2},
    {"type": "reasoning.encrypted", "data": "BBB=", "id": "t", "format": "f", "index": 2},
    {"type": "reasoning.unheard", "of": {"deep": [1, None]}},
]


def in_pieces(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Growing text a character at a time, and a signature in a piece of its own at the end."""
    pieces: list[dict[str, Any]] = []
    for part in details:
        key = {"reasoning.text": "text", "reasoning.summary": "summary"}.get(part["type"])
        if key is None:
            pieces.append(part)
            continue
        pieces += [{**part, key: character, "signature": None} for character in part[key]]
        pieces.append({"type": part["type"], "signature": "sig", "index": part["index"]})
    return pieces


@pytest.mark.parametrize("named", [True, False])
def test_reasoning_details_are_kept_whole(named: bool) -> None:
    text = {"reasoning": "x"} if named else {}
    pieces = in_pieces(DETAILS)
    events = [{"choices": [{"delta": {"reasoning_details": [p], **text}}]} for p in pieces]

    decoder, chunks, _ = decode(events)

    kept = json.loads(decoder.reasoning_details.written())
    assert [(p["type"], p.get("text"), p.get("summary"), p.get("data")) for p in kept] == [
        (p["type"], p.get("text"), p.get("summary"), p.get("data")) for p in DETAILS
    ]
    assert [p.get("signature") for p in kept] == ["sig", "sig", None, None, None]
    assert kept[2:] == DETAILS[2:]
    shown = "".join(c.text for c in chunks if isinstance(c, ReasoningDelta))
    assert shown == ("x" * len(pieces) if named else "PlanI look")


def test_reasoning_details_in_one_piece_stay_as_they_are() -> None:
    decoder, _, _ = decode([{"choices": [{"message": {"reasoning_details": DETAILS}}]}])
    assert json.loads(decoder.reasoning_details.written()) == DETAILS


@pytest.mark.parametrize("odd", ["text", {"type": "reasoning.text"}, [None, 3, "x"], [[]]])
def test_odd_reasoning_details_do_no_harm(odd: object) -> None:
    decoder, chunks, _ = decode([{"choices": [{"delta": {"reasoning_details": odd}}]}])
    assert chunks == []
    assert decoder.reasoning_details.written() == ""


# Errors


@pytest.mark.parametrize(
    ("status", "payload", "kind"),
    [
        (
            400,
            {"error": {"message": "too long", "code": "context_length_exceeded"}},
            ContextOverflow,
        ),
        (400, {"error": "exceeds maximum context length of 8"}, ContextOverflow),
        (400, {"error": {"message": "bad"}}, InvalidResponse),
        (401, {}, AuthenticationFailed),
        (429, {"detail": "slow"}, RateLimited),
        (404, {"error": {"message": "no model"}}, InvalidResponse),
        (500, {"error": {"message": "boom"}}, BackendUnavailable),
        (503, None, BackendUnavailable),
        (None, {"error": {"message": "boom", "code": 429}}, RateLimited),
        (None, {"error": {"message": "boom"}}, BackendUnavailable),
    ],
)
def test_errors_are_told_apart(
    status: int | None, payload: object, kind: type[BackendError]
) -> None:
    assert type(error_from_payload(payload, status=status)) is kind


def test_an_error_in_the_stream_is_raised() -> None:
    with pytest.raises(BackendUnavailable, match="boom"):
        StreamDecoder().feed({"error": {"message": "boom"}})


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "boom", "code": 500},
        {"error": "boom"},
        {"choices": [{"delta": {"content": ""}, "error": {"code": 502, "message": "boom"}}]},
        {"choices": [{"delta": {}, "finish_reason": "error"}]},
        {"choices": [{"delta": {}, "finish_reason": "abort"}]},
    ],
)
def test_an_answer_that_failed_is_not_taken_for_one_that_ended(event: dict[str, Any]) -> None:
    with pytest.raises(BackendUnavailable):
        StreamDecoder().feed(event)


# Dialects

THOUGHT = AssistantMessage(
    blocks=(ReasoningBlock(text="hm"), ToolCall(id="c", name="f", arguments="{}")),
    stop_reason="tool_calls",
    model="m",
)
SILENT = AssistantMessage(
    blocks=(ToolCall(id="d", name="f", arguments="{}"),), stop_reason="tool_calls", model="m"
)
PLAIN = AssistantMessage(blocks=(TextBlock(text="x"),), stop_reason="end", model="m")


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (Dialect(), [{}, {}, {}]),
        (Dialect(reasoning_field="reasoning"), [{"reasoning": "hm"}, {}, {}]),
        (Dialect(reasoning_field="reasoning_content", reasoning="drop"), [{}, {}, {}]),
        (
            Dialect(reasoning="require"),
            [{"reasoning_content": "hm"}, {"reasoning_content": ""}, {}],
        ),
        (
            Dialect(reasoning="require", reasoning_field="reasoning"),
            [{"reasoning": "hm"}, {"reasoning": ""}, {}],
        ),
        (Dialect(reasoning_field="reasoning_details"), [{"reasoning": "hm"}, {}, {}]),
    ],
)
def test_thinking_goes_back_as_the_server_wants_it(dialect: Dialect, expected: object) -> None:
    request = ChatRequest(system="", messages=(THOUGHT, SILENT, PLAIN))
    body: Any = encode_request(request, model="m", dialect=dialect)
    fields = ("reasoning", "reasoning_content")
    assert [
        {key: message[key] for key in fields if key in message} for message in body["messages"]
    ] == expected


def test_what_a_server_refuses_is_left_out() -> None:
    tool = ToolSpec(name="f", description="", schema={})
    request = ChatRequest(
        system="",
        messages=(UserMessage(content="hi"),),
        tools=(tool,),
        sampling=SamplingParams(max_tokens=9, top_k=5, temperature=0.5),
    )
    dialect = Dialect(
        max_tokens_field="max_completion_tokens",
        single_calls=True,
        omitted=frozenset({"top_k", "stream_options"}),
    )
    body = encode_request(request, model="m", dialect=dialect)
    assert body.keys() == {
        "model",
        "messages",
        "stream",
        "tools",
        "parallel_tool_calls",
        "temperature",
        "max_completion_tokens",
    }
    assert body["parallel_tool_calls"] is False


def test_more_calls_than_a_turn_may_hold_are_refused() -> None:
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "f"}} for n in range(65)]
    with pytest.raises(InvalidResponse, match="64"):
        list(ToolCallStream().feed(calls))
