"""Events -> the objects on stdout, held against a transcript kept in tests/golden.

`QCODE_UPDATE_GOLDEN=1 pytest` writes the transcripts anew; read the difference.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from qcode.frontends.partial_messages import JsonObject
from qcode.frontends.stream_json import RunFacts, StreamJson
from qcode.protocol.chunks import ReasoningDelta, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.errors import BackendUnavailable, LimitReached
from qcode.protocol.events import (
    ApprovalRequested,
    ApprovalResolved,
    ContextCompacted,
    Event,
    MessageAdded,
    Notice,
    StepStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
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
from qcode.protocol.permissions import Access, PermissionRequest
from qcode.protocol.tools import ToolResult

GOLDEN = Path(__file__).parent.parent / "golden"
# Read now: tests themselves run in a clean environment.
UPDATE = bool(os.environ.get("QCODE_UPDATE_GOLDEN"))
FACTS = RunFacts(
    session_id="session-1",
    cwd="/project",
    model="qwen",
    mode="default",
    tools=("edit", "run_shell_command"),
    context_window=4096,
)
CALL = ToolCall(id="call_1", name="edit", arguments='{"path": "a.py"}')
BROKEN = ToolCall(id="call_2", name="run_shell_command", arguments='{"command": "rm')
QUESTION = PermissionRequest(
    tool="edit", access=Access.EDIT, target="/project/a.py", inside_workspace=True, title="Edit"
)
TURN: list[Event] = [
    TurnStarted(prompt="fix it"),
    MessageAdded(message=UserMessage(content="fix it")),
    StepStarted(step=1),
    ReasoningDelta(text="Let me "),
    Retrying(attempt=1, wait_s=0.5, reason="broke off"),
    ReasoningDelta(text="Let me see."),
    TextDelta(text="I will "),
    TextDelta(text="edit."),
    ToolCallDelta(index=0, call_id="call_1", name="edit"),
    ToolCallDelta(index=0, call_id="call_1", arguments='{"path": "a.py"}'),
    ToolCallDelta(index=1, call_id="call_2", name="run_shell_command", arguments='{"command": "rm'),
    MessageAdded(
        message=AssistantMessage(
            blocks=(
                ReasoningBlock(text="Let me see."),
                TextBlock(text="I will edit."),
                CALL,
                BROKEN,
            ),
            stop_reason="tool_calls",
            model="qwen",
            usage=Usage(input_tokens=100, output_tokens=20, cached_tokens=60),
        )
    ),
    ApprovalRequested(call_id="call_1", request=QUESTION, reason="edits are asked about"),
    ApprovalResolved(call_id="call_1", allowed=False),
    ToolFinished(
        call=CALL, title="Edit a.py", result=ToolResult(content="no", is_error=True), duration_s=0
    ),
    MessageAdded(message=ToolMessage(call_id="call_1", name="edit", content="no", is_error=True)),
    ToolStarted(call=BROKEN, title="Run"),
    MessageAdded(
        message=ToolMessage(call_id="call_2", name="run_shell_command", content="line\u2028two")
    ),
    Notice(text="for people only"),
    ContextCompacted(before_tokens=4000, after_tokens=700),
    MessageAdded(message=UserMessage(content="Your answer was empty.")),
    StepStarted(step=2),
    TextDelta(text="Done."),
    MessageAdded(
        message=AssistantMessage(
            blocks=(TextBlock(text="Done."),),
            stop_reason="end",
            model="qwen",
            usage=Usage(input_tokens=130, output_tokens=3, cached_tokens=120),
        )
    ),
]
COMPLETED = TurnFinished(
    reason="completed",
    text="Done.",
    usage=Usage(input_tokens=230, output_tokens=23, cached_tokens=180),
    num_steps=2,
)


def objects(
    events: Iterable[Event], finished: TurnFinished, *, partial: bool = False
) -> list[JsonObject]:
    """The objects of a run, its ids numbered and its clock going a second a look."""
    written: list[JsonObject] = []
    ids = (f"id-{number}" for number in itertools.count(1))
    ticks = itertools.count()
    translator = StreamJson(
        FACTS,
        written.append,
        partial=partial,
        new_id=lambda: next(ids),
        clock=lambda: float(next(ticks)),
    )
    translator.start()
    for event in events:
        translator.show(event)
    translator.finish(finished)
    return written


@pytest.mark.parametrize("partial", [False, True])
def test_a_whole_turn_is_told_as_in_the_transcript(partial: bool) -> None:
    written = objects(TURN, COMPLETED, partial=partial)
    text = "".join(json.dumps(value) + "\n" for value in written)
    golden = GOLDEN / ("stream_json_partial.jsonl" if partial else "stream_json.jsonl")
    if UPDATE:
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_stream_of_partial_messages_is_well_formed() -> None:
    """Each message starts, its blocks open and close in order, and it stops."""
    state: list[str] = []
    for value in objects(TURN, COMPLETED, partial=True):
        if value["type"] != "stream_event":
            assert state == []
            continue
        event = value["event"]
        assert isinstance(event, dict)
        match event["type"]:
            case "message_start":
                assert state == []
                state.append("message")
            case "content_block_start":
                assert state == ["message"]
                state.append("block")
            case "content_block_delta":
                assert state == ["message", "block"]
            case "content_block_stop":
                assert state.pop() == "block"
            case "message_stop":
                assert state == ["message"]
                state.clear()


LIMIT = LimitReached("Stopped at the limit of 3 model requests.", limit="max_turns")
TIME = LimitReached("Stopped at the limit of 5 seconds.", limit="max_wall_time")


@pytest.mark.parametrize(
    ("finished", "subtype", "kind"),
    [
        (TurnFinished(reason="limit", error=LIMIT), "error_max_turns", "max_turns"),
        (TurnFinished(reason="limit", error=TIME), "error_during_execution", "max_wall_time"),
        (TurnFinished(reason="cancelled"), "error_during_execution", "cancelled"),
        (
            TurnFinished(reason="failed", error=BackendUnavailable("gone", "Start it.")),
            "error_during_execution",
            "BackendUnavailable",
        ),
        (
            TurnFinished(reason="completed", text="Done.", verify_exit_code=1),
            "error_during_execution",
            "verify_failed",
        ),
    ],
)
def test_an_end_without_success_says_what_happened(
    finished: TurnFinished, subtype: str, kind: str
) -> None:
    written = objects([TurnStarted(prompt="x")], finished)
    assert [value["type"] for value in written] == ["system", "result"]
    result = written[-1]
    assert (result["subtype"], result["is_error"]) == (subtype, True)
    assert "result" not in result
    error = result["error"]
    assert isinstance(error, dict)
    assert error["type"] == kind
    assert error["message"]
