"""What is written can be read back, whatever a model or a user put into it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.protocol.chunks import PrefillProgress, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.codec import (
    Undecodable,
    event_decoder,
    message_decoder,
    to_json,
)
from qcode.protocol.errors import ContextOverflow, LimitReached, QcodeError
from qcode.protocol.events import (
    ApprovalRequested,
    Event,
    MessageAdded,
    Notice,
    ToolFinished,
    ToolStarted,
    TurnFinished,
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
from qcode.protocol.permissions import (
    Access,
    DiffDisplay,
    PermissionRequest,
    ShellAnalysis,
    SimpleCommand,
    TextDisplay,
)
from qcode.protocol.tools import TodoDisplay, TodoItem, ToolResult

text = st.text(max_size=20)
tokens = st.integers(min_value=0, max_value=10**6)
blocks = (
    st.builds(TextBlock, text=text)
    | st.builds(ReasoningBlock, text=text)
    | st.builds(ToolCall, id=text, name=text, arguments=text)
)
messages = (
    st.builds(UserMessage, content=text)
    | st.builds(ToolMessage, call_id=text, name=text, content=text, is_error=st.booleans())
    | st.builds(
        AssistantMessage,
        blocks=st.lists(blocks, max_size=4).map(tuple),
        stop_reason=st.sampled_from(["end", "tool_calls", "max_tokens", "cancelled", "error"]),
        model=text,
        usage=st.builds(Usage, input_tokens=tokens, output_tokens=tokens, cached_tokens=tokens),
        raw=st.none() | text,
    )
)


@given(messages)
def test_messages_survive_the_round_trip(message: object) -> None:
    line = to_json(message)
    assert line.isascii()
    assert "\n" not in line
    assert message_decoder().from_json(line) == message


CALL = ToolCall(id="1", name="edit", arguments='{"a": "é"}')
EVENTS: list[Event] = [
    TextDelta(text="ü\u2028"),
    ToolCallDelta(index=0, call_id="1", name="edit", arguments="{"),
    PrefillProgress(done_tokens=1, total_tokens=2, cached_tokens=0),
    Retrying(attempt=1, wait_s=0.5, reason="reset"),
    MessageAdded(message=AssistantMessage(blocks=(CALL,), stop_reason="tool_calls", model="m")),
    ToolStarted(
        call=CALL, title="Edit", preview=DiffDisplay(path="a", old_text=None, new_text="x")
    ),
    ToolFinished(
        call=CALL,
        title="Edit",
        result=ToolResult(
            content="ok",
            display=TodoDisplay(items=(TodoItem(content="x", status="pending"),)),
            changed_files=("/a",),
            exit_code=1,
        ),
        duration_s=0.25,
    ),
    ApprovalRequested(
        call_id="1",
        request=PermissionRequest(
            tool="run_shell_command",
            access=Access.EXECUTE,
            target="ls",
            inside_workspace=True,
            title="ls",
            preview=TextDisplay(text="ls"),
            shell=ShellAnalysis(commands=(SimpleCommand(argv=("ls", "-l")),)),
        ),
        reason="asks",
    ),
    Notice(text="x", level="warning"),
    TurnFinished(reason="completed", text="done", usage=Usage(input_tokens=1), num_steps=2),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_events_survive_the_round_trip(event: Event) -> None:
    assert event_decoder().from_json(to_json(event)) == event


def test_an_event_keeps_its_error() -> None:
    event = TurnFinished(reason="limit", error=ContextOverflow("too long", hint="compact"))
    error = event_decoder().from_json(to_json(event)).error  # type: ignore[union-attr]
    assert isinstance(error, ContextOverflow)
    assert (error.message, error.hint) == ("too long", "compact")


def test_an_error_of_an_unknown_class_is_still_one_of_ours() -> None:
    line = json.loads(to_json(TurnFinished(reason="failed", error=LimitReached("x"))))
    line["error"]["type"] = "Path"
    error = event_decoder().from_plain(line).error  # type: ignore[union-attr]
    assert type(error) is QcodeError


def test_half_a_character_is_replaced_when_written() -> None:
    line = to_json(UserMessage(content="a\ud83dz"))
    assert message_decoder().from_json(line) == UserMessage(content="a\ufffdz")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"role":"user"}',
        '{"role":"nobody","content":"x"}',
        '{"role":"user","content":1}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(Undecodable):
        message_decoder().from_json(line)


def test_a_value_of_no_type_of_ours_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="object"):
        to_json(object())
