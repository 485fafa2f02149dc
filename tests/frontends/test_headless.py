"""What a headless run writes where, and who is asked what."""

from __future__ import annotations

import asyncio
import io
import os
import pty
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from qcode.agent.agent import Agent
from qcode.frontends.approval_question import exact
from qcode.frontends.headless import OutputClosed, create_output, run_headless
from qcode.frontends.headless_approval import (
    LineApprover,
    RefusingApprover,
    allowing_rules,
    question,
)
from qcode.frontends.progress import Progress
from qcode.frontends.stream_json import RunFacts
from qcode.protocol.chunks import PrefillProgress
from qcode.protocol.errors import BackendUnavailable
from qcode.protocol.events import (
    Event,
    MessageAdded,
    Notice,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from qcode.protocol.messages import ToolCall, ToolMessage
from qcode.protocol.permissions import (
    Access,
    DiffDisplay,
    PermissionRequest,
    ShellAnalysis,
    SimpleCommand,
)
from qcode.protocol.tools import ToolResult

pytestmark = pytest.mark.anyio

FACTS = RunFacts(session_id="s", cwd="/p", model="m", mode="default")
CALL = ToolCall(id="1", name="edit", arguments="{}")


class EventsOf:
    """Stands where an agent stands: gives events, and remembers that it was cancelled."""

    def __init__(self, *events: Event, then: Exception | None = None) -> None:
        self._events = events
        self._then = then
        self.cancelled = False

    async def run(self, prompt: str) -> AsyncGenerator[Event, None]:
        for event in self._events:
            yield event
        if self._then is not None:
            raise self._then

    def cancel(self) -> None:
        self.cancelled = True


async def headless(
    source: EventsOf, *, output_format: str = "text", write: object = None
) -> tuple[TurnFinished, str, str]:
    """Runs a turn: how it finished, stdout, stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    output = create_output(
        output_format,  # type: ignore[arg-type]  # given by parameters, as the command line does
        write or stdout.write,  # type: ignore[arg-type]  # as above
        partial=False,
        max_line=100,
    )
    output.start(FACTS)
    finished = await run_headless(
        cast(Agent, source), "do it", output=output, progress=Progress(stderr, live=False)
    )
    return finished, stdout.getvalue(), stderr.getvalue()


async def test_the_answer_is_all_of_stdout_and_the_rest_is_on_stderr() -> None:
    diff = DiffDisplay(path="a.py", old_text="a\nb\n", new_text="a\nc\nd\n")
    done, stdout, stderr = await headless(
        EventsOf(
            PrefillProgress(done_tokens=1, total_tokens=2, cached_tokens=0),
            ToolStarted(call=CALL, title="Edit a.py"),
            ToolFinished(
                call=CALL,
                title="Edit a.py",
                result=ToolResult(content="ok", display=diff),
                duration_s=0.1,
            ),
            Notice(text="careful", level="warning"),
            TurnFinished(reason="completed", text="It is \x1b[31mfixed\u202e.", num_steps=1),
        )
    )
    assert done.reason == "completed"
    assert stdout == "It is fixed<U+202E>.\n"
    assert "• Edit a.py\n  a.py: +2 -1\nwarning: careful\n1 step" in stderr


@pytest.mark.parametrize("reason", ["failed", "cancelled", "limit"])
async def test_a_turn_that_did_not_complete_leaves_stdout_empty(reason: str) -> None:
    error = BackendUnavailable("It is gone.", "Start it.") if reason != "cancelled" else None
    finished = TurnFinished(reason=reason, text="half", error=error)  # type: ignore[arg-type]  # parametrized
    _, stdout, stderr = await headless(EventsOf(finished))
    assert stdout == ""
    if error is not None:
        assert "error: It is gone.\nhint: Start it.\n" in stderr


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_a_crash_still_ends_in_one_result(output_format: str) -> None:
    finished, stdout, stderr = await headless(
        EventsOf(then=ZeroDivisionError("oops")), output_format=output_format
    )
    assert finished.reason == "failed"
    assert stdout.count('"type": "result"') == 1
    assert "ZeroDivisionError: oops" in stdout
    assert "bug in qcode" in stderr


async def test_a_reader_that_leaves_cancels_the_turn() -> None:
    def write(text: str) -> None:
        if '"result"' not in text and '"init"' not in text:
            raise BrokenPipeError

    source = EventsOf(
        Notice(text="x"),
        TurnFinished(reason="cancelled"),
    )
    finished, _, _ = await headless(source, output_format="stream-json", write=write)
    assert finished.reason == "cancelled"  # nothing was written that could have failed

    source = EventsOf(
        MessageAdded(message=ToolMessage(call_id="1", name="edit", content="ok")),
        TurnFinished(reason="cancelled"),
    )
    finished, _, _ = await headless(source, output_format="stream-json", write=write)
    assert source.cancelled
    assert isinstance(finished.error, OutputClosed)


def execute(line: str, *commands: SimpleCommand, opaque: str | None = None) -> PermissionRequest:
    return PermissionRequest(
        tool="run_shell_command",
        access=Access.EXECUTE,
        target=line,
        inside_workspace=True,
        title=f"Run {line}",
        shell=ShellAnalysis(commands=commands, opaque=opaque),
    )


def simple(*argv: str) -> SimpleCommand:
    return SimpleCommand(argv=argv)


@pytest.mark.parametrize(
    ("request_", "rules"),
    [
        (execute("pytest -q", simple("pytest", "-q")), ("Bash(pytest:*)",)),
        (execute("git commit -m x", simple("git", "commit", "-m", "x")), ("Bash(git commit:*)",)),
        (execute("make", simple("make")), ("Bash(make)",)),
        (execute("ls && pytest", simple("ls"), simple("pytest")), ("Bash(pytest:*)",)),
        (
            execute("python3 -m pytest -q", simple("python3", "-m", "pytest", "-q")),
            ("Bash(python3 -m pytest:*)",),
        ),
        (execute("python x.py", simple("python", "x.py")), ("Bash(python x.py)",)),
        (
            execute("ruff . && pytest && pytest a", simple("ruff"), simple("pytest")),
            ("Bash(ruff:*)", "Bash(pytest:*)"),
        ),
        (execute("echo $(x)", simple("echo"), opaque="a substitution"), ()),
        (execute("a > b", SimpleCommand(argv=("a",), writes_to=("b",))), ()),
    ],
)
def test_the_rules_that_would_allow(request_: PermissionRequest, rules: tuple[str, ...]) -> None:
    assert allowing_rules(request_) == rules


async def test_a_refusal_names_the_rule_and_never_waits() -> None:
    told: list[str] = []
    answer = await RefusingApprover(told.append).ask(
        execute("pytest", simple("pytest")), "commands are asked about"
    )
    assert not answer.allowed
    assert "qcode run --allow 'Bash(pytest:*)' ..." in "\n".join(told)


def test_what_would_run_is_shown_exactly() -> None:
    assert exact("a\x1b[8mb\u202ec\r" + " " * 50 + "d") == (
        "a\\x1b[8mb<U+202E>c\\x0d [50 spaces] d"
    )
    long = "x" * 9000
    assert long in question(execute(long), "asked")


async def ask_on_terminal(typed_before: bytes, typed_after: bytes) -> tuple[bool, str, str]:
    """What a person at a terminal answers who types before and after the question is there."""
    person, terminal = pty.openpty()
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if text.startswith("Allow?"):
            os.write(person, typed_after)

    try:
        os.write(person, typed_before)
        approver = LineApprover(tell, stdin=terminal)
        answer = await approver.ask(execute("pytest", simple("pytest")), "asked")
    finally:
        os.close(person)
        os.close(terminal)
    return answer.allowed, answer.scope, "\n".join(told)


@pytest.mark.parametrize(
    ("typed", "allowed", "scope"),
    [
        (b"y\n", True, "once"),
        (b"s\n", True, "session"),
        (b"n\n", False, "once"),
        (b"\n", False, "once"),
    ],
)
async def test_a_person_answers(typed: bytes, allowed: bool, scope: str) -> None:
    answered, answered_scope, told = await ask_on_terminal(b"", typed)
    assert (answered, answered_scope) == (allowed, scope)
    assert "pytest" in told


async def test_what_was_typed_ahead_is_no_answer() -> None:
    allowed, _, _ = await ask_on_terminal(b"y\ny\n", b"\n")
    assert not allowed


async def test_a_question_can_be_cancelled() -> None:
    person, terminal = pty.openpty()
    shown = asyncio.Event()

    def tell(text: str) -> None:
        if text.startswith("Allow?"):
            shown.set()

    asking = asyncio.create_task(
        LineApprover(tell, stdin=terminal).ask(execute("x", simple("x")), "asked")
    )
    await shown.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    os.close(person)
    os.close(terminal)


def test_a_live_line_is_wiped_before_a_line_that_stays() -> None:
    stream = io.StringIO()
    progress = Progress(stream, live=True)
    progress.show(PrefillProgress(done_tokens=1000, total_tokens=4000, cached_tokens=0))
    progress.line("• Edit")
    assert stream.getvalue() == (
        "\r\x1b[Kreading the prompt: 1,000 of 4,000 tokens\r\x1b[K• Edit\n"
    )


def test_where_no_live_line_can_be_a_slow_run_still_gives_signs() -> None:
    stream = io.StringIO()
    seconds = iter(range(0, 100, 8))
    progress = Progress(stream, live=False, clock=lambda: next(seconds))
    for done in range(5):
        progress.show(PrefillProgress(done_tokens=done, total_tokens=9, cached_tokens=0))
    assert stream.getvalue() == (
        "reading the prompt: 1 of 9 tokens\nreading the prompt: 3 of 9 tokens\n"
    )
