"""Cancellation at every stage, modes, and what survives a turn that was broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from loop_parts import Bench, assert_well_formed, calls, of_type, play, says

from qcode.agent.session import Session
from qcode.agent.session_store import SessionStore
from qcode.agent.tool_calls import NOT_RUN, STOPPED
from qcode.agent.verification import VerifyCommand
from qcode.protocol.chunks import ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.events import (
    ApprovalRequested,
    ApprovalResolved,
    Event,
    Notice,
    ToolFinished,
    ToolProgress,
    TurnFinished,
)
from qcode.protocol.messages import AssistantMessage, ToolMessage, UserMessage
from qcode.protocol.permissions import Mode

pytestmark = pytest.mark.anyio

COMMAND = ("run_shell_command", {"command": "sleep"})
READ_A = ("read_file", {"path": "a.py"})
EDIT = ("edit", {"path": "a.py", "text": "right"})


async def cancelled_when(bench: Bench, ready: Callable[[], Awaitable[object]]) -> list[Event]:
    async def cancel() -> None:
        await ready()
        bench.agent.cancel()

    _, events = await asyncio.gather(cancel(), play(bench.agent, "go"))
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.error) == ("cancelled", None)
    assert_well_formed(bench.agent)
    return events


async def goes_on(bench: Bench) -> None:
    """A cancelled agent works as before."""
    bench.model.scripts[:] = [says("back")]
    finished = (await play(bench.agent, "and now?"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.text == "back"


def tool_messages(bench: Bench) -> list[str]:
    return [m.content for m in bench.agent.conversation if isinstance(m, ToolMessage)]


async def test_cancel_before_anything_ran() -> None:
    bench = Bench(says("never"))
    async with aclosing(bench.agent.run("go")) as events:
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # the turn's task exists and has not begun
        bench.agent.cancel()
        rest = [await first, *[event async for event in events]]
    assert rest[-1].type == "turn_finished"
    assert isinstance(rest[-1], TurnFinished)
    assert rest[-1].reason == "cancelled"
    assert sum(isinstance(event, TurnFinished) for event in rest) == 1
    await goes_on(bench)


async def test_cancel_while_the_prompt_is_read() -> None:
    bench = Bench([asyncio.Event()])
    await cancelled_when(bench, bench.model.waiting.wait)
    assert bench.agent.conversation == (UserMessage(content="go"),)
    assert bench.model.num_closed == 1
    await goes_on(bench)


async def test_cancel_in_the_answer_keeps_its_text_and_no_half_call() -> None:
    bench = Bench(
        [
            ReasoningDelta(text="hm"),
            TextDelta(text="I will "),
            TextDelta(text="now"),
            ToolCallDelta(index=0, call_id="c0", name="edit", arguments='{"pa'),
            asyncio.Event(),
        ]
    )
    await cancelled_when(bench, bench.model.waiting.wait)
    answer = bench.agent.conversation[-1]
    assert isinstance(answer, AssistantMessage)
    assert (answer.text, answer.stop_reason) == ("I will now", "cancelled")
    assert answer.tool_calls == ()
    assert bench.model.num_closed == 1
    await goes_on(bench)


async def test_cancel_while_a_person_is_asked() -> None:
    bench = Bench(calls(COMMAND, READ_A), mode=Mode.DEFAULT)
    bench.person.hold = asyncio.Event()
    events = await cancelled_when(bench, bench.person.waiting.wait)
    assert len(of_type(events, ApprovalRequested)) == 1
    assert [event.allowed for event in of_type(events, ApprovalResolved)] == [False]
    assert tool_messages(bench) == [NOT_RUN, NOT_RUN]
    assert bench.shell.commands == []
    await goes_on(bench)


async def test_cancel_in_a_tool() -> None:
    bench = Bench(calls(READ_A, COMMAND, READ_A))
    bench.shell.hold = asyncio.Event()
    events = await cancelled_when(bench, bench.shell.started.wait)
    assert tool_messages(bench) == ["print(1)\n", STOPPED, NOT_RUN]
    assert len(of_type(events, ToolFinished)) == 3
    assert of_type(events, ToolProgress)[0].text == "working\n"
    await goes_on(bench)


async def test_cancel_while_reads_run_together() -> None:
    bench = Bench(calls(READ_A, ("read_file", {"path": "b.py"})))
    bench.reads.gate = asyncio.Event()
    await cancelled_when(bench, bench.reads.started.wait)
    assert bench.reads.running == 0
    assert tool_messages(bench) == [STOPPED, STOPPED]
    bench.reads.gate = None
    await goes_on(bench)


async def test_a_second_cancel_does_not_disturb_the_stopping_of_a_tool() -> None:
    bench = Bench(calls(COMMAND))
    bench.shell.hold = asyncio.Event()

    async def cancel_once_more() -> None:
        await bench.shell.stopping.wait()
        bench.agent.cancel()

    again = asyncio.create_task(cancel_once_more())
    await cancelled_when(bench, bench.shell.started.wait)
    await again
    assert bench.shell.stopped
    assert tool_messages(bench) == [STOPPED]


async def test_cancel_with_no_turn_is_nothing() -> None:
    bench = Bench(says("x"))
    bench.agent.cancel()
    assert (await play(bench.agent, "go"))[-1].type == "turn_finished"
    bench.agent.cancel()


async def test_leaving_the_stream_early_stops_the_turn() -> None:
    bench = Bench(calls(COMMAND))
    bench.shell.hold = asyncio.Event()
    async with aclosing(bench.agent.run("go")) as events:
        async for event in events:
            if isinstance(event, ToolProgress):
                break
    assert tool_messages(bench) == [STOPPED]
    assert_well_formed(bench.agent)
    await goes_on(bench)


async def test_what_was_said_too_late_is_read_in_the_next_turn() -> None:
    bench = Bench([asyncio.Event()])

    async def said_then_cancelled() -> None:
        await bench.model.waiting.wait()
        bench.agent.steer("also b.py")

    await cancelled_when(bench, said_then_cancelled)
    await goes_on(bench)
    assert UserMessage(content="also b.py") in bench.model.requests[-1].messages


async def test_a_cancelled_session_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, tmp_path)
    session = store.create()
    bench = Bench(calls(READ_A, COMMAND), session=session)
    bench.shell.hold = asyncio.Event()
    await cancelled_when(bench, bench.shell.started.wait)
    copy = store.fork(session.id)
    assert copy.conversation() == bench.agent.conversation


async def test_a_session_that_cannot_be_stored_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    session = SessionStore(tmp_path / "sessions", tmp_path).create()
    bench = Bench(calls(READ_A), says("done"), session=session)
    events = await play(bench.agent, "go")
    assert [notice.level for notice in of_type(events, Notice)] == ["warning"]
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "completed"


async def test_the_mode_can_be_changed_between_calls() -> None:
    bench = Bench(calls(EDIT), calls(EDIT), says("done"))
    hold = asyncio.Event()
    bench.model.scripts[1].insert(0, hold)
    assert bench.agent.mode is Mode.YOLO

    async def change() -> None:
        await bench.model.waiting.wait()
        bench.files["a.py"] = "as before"
        bench.agent.mode = Mode.PLAN
        hold.set()

    await asyncio.gather(change(), play(bench.agent, "go"))
    assert tool_messages(bench) == [
        "Written.",
        "Permission denied: plan mode changes no files",
    ]
    assert bench.files["a.py"] == "as before"


def failing_until(bench: Bench, expected: str) -> None:
    bench.shell.exit_code = lambda: 0 if bench.files["a.py"] == expected else 1


async def test_a_verified_turn_completes_when_the_command_succeeds() -> None:
    bench = Bench(
        says("Done."),
        calls(EDIT),
        says("Now done."),
        verify=VerifyCommand(command="pytest -q"),
        deny=("Bash",),
    )
    failing_until(bench, "right")
    finished = (await play(bench.agent, "fix"))[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.text) == ("completed", "Now done.")
    assert finished.verify_exit_code == 0
    assert bench.shell.commands == ["pytest -q", "pytest -q"]
    seen = bench.model.requests[1].messages[-1]
    assert isinstance(seen, ToolMessage)
    assert seen.content == "exit code 1"
    assert_well_formed(bench.agent)


async def test_a_turn_that_never_verifies_fails_with_the_exit_code() -> None:
    bench = Bench(
        *(says(f"Done {number}.") for number in range(3)),
        verify=VerifyCommand(command="pytest -q", max_attempts=3),
    )
    bench.shell.exit_code = lambda: 4
    finished = (await play(bench.agent, "fix"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "failed"
    assert isinstance(finished.error, TaskNotDone)
    assert finished.verify_exit_code == 4
    assert len(bench.shell.commands) == 3


async def test_a_cancelled_verified_turn_tells_the_last_exit_code() -> None:
    bench = Bench(
        says("Done."),
        [asyncio.Event()],
        verify=VerifyCommand(command="pytest -q"),
    )
    bench.shell.exit_code = lambda: 2
    events = await cancelled_when(bench, bench.model.waiting.wait)
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.verify_exit_code == 2


async def test_a_command_that_cannot_be_run_proves_nothing() -> None:
    bench = Bench(says("Done."), verify=VerifyCommand(command="pytest -q"))
    bench.agent.tools.pop("run_shell_command")
    finished = (await play(bench.agent, "fix"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "failed"
    assert isinstance(finished.error, TaskNotDone)
    assert "could not be run" in finished.error.message
    assert finished.verify_exit_code is None
    assert_well_formed(bench.agent)


async def test_the_person_can_shorten_and_look_at_the_context() -> None:
    session = Session(session_id="s")
    for number in range(20):
        session.add(UserMessage(content=f"{number} " + "word " * 400))
    bench = Bench(says("They counted.", input_tokens=0), session=session, context_window=8_000)
    before = bench.agent.context_use()
    async with aclosing(bench.agent.compact()) as events:
        finished = [event async for event in events][-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "completed"
    after = bench.agent.context_use()
    assert 0 < after.conversation < before.conversation
    assert (after.system, after.tools) == (before.system, before.tools)
    assert [name for name, _ in after.tools] == ["read_file", "edit", "run_shell_command"]
    report = after.report()
    assert f"{after.total:,}" in report
    assert "8,000" in report
    assert not after.exact
