"""Lines of a program that drives a conversation."""

from __future__ import annotations

import asyncio
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.frontends.headless_input import (
    MAX_LINE_BYTES,
    BadLine,
    ControlRequest,
    Input,
    UserInput,
    deliver_inputs,
    parse_line,
    read_lines,
)


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("fix it", "fix it"),
        ([{"type": "text", "text": "fix"}, {"type": "text", "text": "it"}], "fix\nit"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_a_message(content: object, text: str) -> None:
    written = line(
        type="user",
        message={"role": "user", "content": content},
        session_id="s",
        parent_tool_use_id=None,
    )
    assert parse_line(written) == UserInput(text=text)


def test_a_control_request() -> None:
    parsed = parse_line(
        line(type="control_request", request_id="7", request={"subtype": "interrupt"})
    )
    assert parsed == ControlRequest(id="7", subtype="interrupt", fields={"subtype": "interrupt"})


@pytest.mark.parametrize("written", [b"", b"  \r", line(type="control_response", response={})])
def test_what_asks_for_nothing(written: bytes) -> None:
    assert parse_line(written) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(
    st.binary(max_size=99)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["user", "control_request", "x", None]),
            "message": json_values
            | st.fixed_dictionaries({"role": json_values, "content": json_values}),
            "request_id": json_values,
            "request": json_values,
        },
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_line_is_too_strange(written: bytes) -> None:
    parsed = parse_line(written)
    if isinstance(parsed, UserInput):
        assert parsed.text.strip()
    if isinstance(parsed, BadLine):
        assert parsed.problem


def test_a_line_that_is_too_long_is_passed_over() -> None:
    long = b"x" * (MAX_LINE_BYTES + 1)
    stream = io.BytesIO(b"one\n" + long + b"\ntwo\n" + long)
    lines = list(read_lines(stream))
    assert lines[0] == b"one"
    assert lines[2] == b"two"
    assert [isinstance(item, BadLine) for item in lines] == [False, True, False, True]


@pytest.mark.anyio
async def test_inputs_are_delivered_in_order_with_their_line_and_an_end() -> None:
    reading, writing = os.pipe()
    got: list[Input | None] = []
    ended = asyncio.Event()

    def receive(parsed: Input | None) -> None:
        got.append(parsed)
        if parsed is None:
            ended.set()

    deliver_inputs(reading, receive)
    hello = line(type="user", message={"role": "user", "content": "hello"})
    os.write(writing, hello + b"\n\nnonsense\n" + hello)
    os.close(writing)
    await ended.wait()
    os.close(reading)
    assert [type(parsed) for parsed in got] == [UserInput, BadLine, UserInput, type(None)]
    assert isinstance(got[1], BadLine)
    assert got[1].problem.startswith("line 3: not JSON")
