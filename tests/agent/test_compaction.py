"""Long conversations are shortened in time, without losing what was asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from loop_parts import Bench, ScriptedModel, assert_well_formed, calls, of_type, play, says

from qcode.agent.compaction import Compactor
from qcode.agent.session import MessageEntry, Session
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.errors import BackendUnavailable, ContextOverflow
from qcode.protocol.events import ContextCompacted, Notice, TurnFinished
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile

pytestmark = pytest.mark.anyio

WINDOW = 4_000  # tokens; about 16 000 characters, of which 70 % may fill


@dataclass
class CountingModel(ScriptedModel):
    """Counts its own tokens; a summary makes its requests half as long."""

    num_tokens: int = 0

    def count_tokens(self, request: ChatRequest) -> int:
        summarised = "Summary of the conversation" in text_of(request.messages[:1])
        return self.num_tokens // 2 if summarised else self.num_tokens


def grown_session(num_reads: int, output_chars: int) -> Session:
    """A turn of many reads, as a long task leaves it."""
    session = Session(session_id="s")
    session.add(UserMessage(content="Rename the module."))
    for number in range(num_reads):
        call = ToolCall(id=f"r{number}", name="read_file", arguments='{"path": "x"}')
        session.add(AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="m"))
        session.add(
            ToolMessage(call_id=call.id, name="read_file", content=str(number) * output_chars)
        )
    return session


def talked_session(num_turns: int, chars: int) -> Session:
    session = Session(session_id="s")
    for number in range(num_turns):
        session.add(UserMessage(content=f"question {number} " + "q" * chars))
        block = TextBlock(text=f"answer {number} " + "a" * chars)
        session.add(AssistantMessage(blocks=(block,), stop_reason="end", model="m"))
    return session


def text_of(messages: tuple[Message, ...]) -> str:
    return "\n".join(m.text if isinstance(m, AssistantMessage) else m.content for m in messages)


async def test_a_short_conversation_is_left_alone() -> None:
    bench = Bench(says("ok"), session=talked_session(2, 100), context_window=WINDOW)
    events = await play(bench.agent, "next")
    assert of_type(events, ContextCompacted) == []
    assert len(bench.model.requests) == 1


async def test_old_tool_outputs_go_first_and_no_model_is_asked() -> None:
    session = grown_session(20, 700)
    bench = Bench(says("ok"), session=session, context_window=WINDOW)
    events = await play(bench.agent, "next")
    (request,) = bench.model.requests
    contents = [m.content for m in request.messages if isinstance(m, ToolMessage)]
    assert contents[0].startswith("[Output of read_file dropped")
    assert contents[-1] == "19" * 700
    assert len(contents) == 20
    assert request.messages[0] == UserMessage(content="Rename the module.")
    (compacted,) = of_type(events, ContextCompacted)
    assert compacted.after_tokens < compacted.before_tokens
    kept = [e.message for e in session.entries if isinstance(e, MessageEntry)]
    assert ToolMessage(call_id="r0", name="read_file", content="0" * 700) in kept


async def test_talk_is_summarised_and_the_newest_stays_word_for_word() -> None:
    session = talked_session(12, 600)
    bench = Bench(says("They asked things."), says("ok"), session=session, context_window=WINDOW)
    events = await play(bench.agent, "next question")
    summary_request, request = bench.model.requests
    assert summary_request.tools == ()
    assert "[user]\nquestion 0" in text_of(summary_request.messages)
    assert "They asked things." in text_of(request.messages[:1])
    assert request.messages[-1] == UserMessage(content="next question")
    assert "answer 11" in text_of(request.messages)
    assert "answer 0" not in text_of(request.messages)
    assert len(of_type(events, ContextCompacted)) == 1
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.usage.input_tokens == 20  # the summary is paid for too
    # The next turn begins with the very same messages.
    bench.model.scripts.append(says("ok"))
    await play(bench.agent, "and another")
    again = bench.model.requests[-1].messages
    assert again[: len(request.messages)] == request.messages


async def test_a_request_that_was_cut_off_from_its_work_is_quoted() -> None:
    session = Session(session_id="s")
    session.add(UserMessage(content="Rename the module to zebra."))
    for number in range(30):
        block = TextBlock(text=f"thought {number} " + "t" * 400)
        call = ToolCall(id=f"r{number}", name="read_file", arguments="{}")
        session.add(AssistantMessage(blocks=(block, call), stop_reason="tool_calls", model="m"))
        session.add(ToolMessage(call_id=call.id, name="read_file", content="short"))
    bench = Bench(says("Halfway."), session=session, context_window=WINDOW)
    turn_of_one = bench.agent._context(lambda event: None)
    assert await turn_of_one.shorten(force=True)
    messages = bench.agent.conversation
    assert isinstance(messages[0], UserMessage)
    assert "Halfway." in messages[0].content
    assert "Rename the module to zebra." in messages[0].content
    assert isinstance(messages[1], AssistantMessage)
    assert_well_formed(bench.agent)


async def test_an_overflow_compacts_once_and_tries_again() -> None:
    bench = Bench(
        [ContextOverflow("too long")],
        says("Summary."),
        says("ok"),
        session=talked_session(200, 600),
    )
    events = await play(bench.agent, "next")
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.text) == ("completed", "ok")
    assert len(bench.model.requests) == 3


async def test_a_second_overflow_ends_the_turn() -> None:
    error = ContextOverflow("too long", hint="Start anew.")
    bench = Bench([error], says("Summary."), [error], session=talked_session(200, 600))
    finished = (await play(bench.agent, "next"))[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.error) == ("failed", error)


async def test_an_overflow_that_cannot_be_helped_ends_the_turn() -> None:
    error = ContextOverflow("too long")
    bench = Bench([error])
    finished = (await play(bench.agent, "next"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.error is error


async def test_a_failed_summary_is_said_and_three_are_enough() -> None:
    session = talked_session(12, 600)
    ok = says("ok", input_tokens=3_700)  # as a server would count such a request
    bench = Bench(
        *[[BackendUnavailable("gone")], ok] * 3, ok, session=session, context_window=WINDOW
    )
    for number in range(4):
        events = await play(bench.agent, f"next {number}")
        assert events[-1].reason == "completed"  # type: ignore[union-attr]
        assert len(of_type(events, Notice)) == (2 if number < 3 else 0)
    assert len(bench.model.requests) == 7


async def test_a_summary_never_asks_for_more_than_the_window() -> None:
    bench = Bench(
        says("Summary."), says("ok"), session=talked_session(60, 1_000), context_window=WINDOW
    )
    await play(bench.agent, "next")
    request = bench.model.requests[0]
    assert request.sampling.max_tokens == WINDOW // 8
    assert len(text_of(request.messages)) / 4 < WINDOW - WINDOW // 8


async def test_a_result_fits_a_small_window() -> None:
    bench = Bench(calls(("read_file", {"path": "a.py"})), says("ok"), context_window=WINDOW)
    bench.files["a.py"] = "x" * 50_000
    await play(bench.agent, "go")
    (result,) = [m for m in bench.agent.conversation if isinstance(m, ToolMessage)]
    assert len(result.content) / 4 < WINDOW / 2


async def test_files_that_a_summary_took_away_are_read_again(tmp_path: Path) -> None:
    session = Session(session_id="s")
    session.add(UserMessage(content="Rename the module."))
    for number, path in enumerate(["old.py", "a.py", "b.py", "gone.py"]):
        call = ToolCall(id=f"r{number}", name="read_file", arguments=f'{{"file_path": "{path}"}}')
        session.add(AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="m"))
        failed = path == "gone.py"
        session.add(ToolMessage(call_id=call.id, name="read_file", content="text", is_error=failed))
    for message in talked_session(12, 600).conversation():
        session.add(message)
    bench = Bench(says("They read files."), says("ok"), session=session, context_window=WINDOW)
    for name, text in {"old.py": "x\n" * 50_000, "a.py": "print(1)\n", "b.py": "two\n"}.items():
        (tmp_path / name).write_text(text)
    bench.agent.tools["read_file"] = ReadFile(LocalWorkspace(tmp_path), FileRecords())
    await play(bench.agent, "next")
    request = bench.model.requests[-1]
    *_, asked, old, first, second = request.messages
    assert isinstance(asked, AssistantMessage)
    names = [json.loads(call.arguments)["file_path"] for call in asked.tool_calls]
    assert names == ["old.py", "a.py", "b.py"]
    assert isinstance(old, ToolMessage)
    assert isinstance(first, ToolMessage)
    assert isinstance(second, ToolMessage)
    assert "print(1)" in first.content
    assert "two" in second.content
    assert len(old.content) < WINDOW / 2
    assert_well_formed(bench.agent)


async def test_with_the_vocabulary_at_hand_the_threshold_is_exact() -> None:
    session = talked_session(12, 600)
    bench = Bench(says("ok"), says("ok"), session=session, context_window=20_000)
    counting = CountingModel(bench.model.scripts, context_window=20_000)
    bench.agent.backend = counting
    bench.agent._compactor = Compactor(session, counting)
    counting.num_tokens = 14_000
    assert of_type(await play(bench.agent, "next"), ContextCompacted) == []
    counting.num_tokens = 14_001
    counting.scripts[:] = [says("They talked."), says("ok")]
    (compacted,) = of_type(await play(bench.agent, "next"), ContextCompacted)
    assert compacted.before_tokens == 14_001


async def test_attempts_that_gain_nothing_begin_again_when_there_is_no_choice() -> None:
    class Full(CountingModel):
        """Never any shorter, whatever is done."""

    session = talked_session(4, 60_000)
    model = Full([], context_window=100_000, num_tokens=75_000)
    compactor = Compactor(session, model)
    request = ChatRequest(system="", messages=session.conversation())
    asked = 0

    async def ask(request: ChatRequest) -> Completed:
        nonlocal asked
        asked += 1
        raise BackendUnavailable("gone")

    for _ in range(5):
        await compactor.shorten(request, lambda event: None, ask)
    assert asked == 3
    model.num_tokens = 78_000
    for _ in range(5):
        await compactor.shorten(request, lambda event: None, ask)
    assert asked == 6
