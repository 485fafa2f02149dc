"""The loop: steps, ends, limits, steering, overflow."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from loop_parts import (
    Bench,
    Script,
    assert_well_formed,
    calls,
    of_type,
    play,
    says,
)

from qcode.agent.limits import TurnLimits
from qcode.agent.turn import TurnContext, TurnOutcome
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed, ReasoningDelta, Retrying, TextDelta
from qcode.protocol.errors import BackendUnavailable, InvalidResponse, LimitReached, TaskNotDone
from qcode.protocol.events import MessageAdded, Notice, StepStarted, ToolFinished, TurnFinished
from qcode.protocol.messages import (
    AssistantMessage,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

pytestmark = pytest.mark.anyio

READ_A = ("read_file", {"path": "a.py"})


async def test_an_answer_without_calls_ends_the_turn() -> None:
    bench = Bench(says("Hello."))
    events = await play(bench.agent, "hi")
    assert [event.type for event in events] == [
        "turn_started",
        "message_added",
        "step_started",
        "text_delta",
        "message_added",
        "turn_finished",
    ]
    assert events[-1] == TurnFinished(
        reason="completed",
        text="Hello.",
        usage=Usage(input_tokens=10, output_tokens=5),
        num_steps=1,
    )
    assert bench.agent.conversation[0] == UserMessage(content="hi")


async def test_calls_are_run_and_the_model_sees_their_results() -> None:
    bench = Bench(calls(READ_A, text="Let me look."), says("It prints 1."))
    events = await play(bench.agent, "what does a.py do?")
    second = bench.model.requests[1]
    assert [message.role for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[-1] == ToolMessage(call_id="c0", name="read_file", content="print(1)\n")
    assert second.system == bench.model.requests[0].system
    assert [spec.name for spec in second.tools] == ["read_file", "edit", "run_shell_command"]
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.num_steps) == ("completed", 2)
    assert finished.usage == Usage(input_tokens=20, output_tokens=10)
    assert_well_formed(bench.agent)


async def test_the_next_turn_continues_the_conversation() -> None:
    bench = Bench(says("one"), says("two"))
    await play(bench.agent, "first")
    await play(bench.agent, "second")
    first, second = bench.model.requests
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[-1] == UserMessage(content="second")


async def test_steering_is_read_before_the_next_step() -> None:
    bench = Bench(calls(READ_A), says("done"))
    hold = bench.reads.gate = asyncio.Event()

    async def steer() -> None:
        await bench.reads.started.wait()
        bench.agent.steer("use b.py")
        hold.set()

    _, events = await asyncio.gather(steer(), play(bench.agent, "go"))
    assert bench.model.requests[1].messages[-1] == UserMessage(content="use b.py")
    assert MessageAdded(message=UserMessage(content="use b.py")) in events
    assert_well_formed(bench.agent)


async def test_steering_during_the_last_answer_is_answered_too() -> None:
    hold = asyncio.Event()
    bench = Bench([hold, *says("done")], says("done differently"))

    async def steer() -> None:
        await bench.model.waiting.wait()
        bench.agent.steer("wait, not so")
        hold.set()

    _, events = await asyncio.gather(steer(), play(bench.agent, "go"))
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.text == "done differently"


async def test_a_backend_error_ends_the_turn_as_failed() -> None:
    error = BackendUnavailable("no route", hint="is it running?")
    bench = Bench([TextDelta(text="Let"), error])
    events = await play(bench.agent, "hi")
    assert events[-1] == TurnFinished(reason="failed", error=error, num_steps=1)
    assert bench.agent.conversation == (UserMessage(content="hi"),)


async def test_a_stream_without_an_end_is_a_failure() -> None:
    bench = Bench([TextDelta(text="Let")])
    finished = (await play(bench.agent, "hi"))[-1]
    assert isinstance(finished, TurnFinished)
    assert isinstance(finished.error, InvalidResponse)


async def test_a_bug_ends_the_turn_in_one_line_and_not_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench([ZeroDivisionError("oh")], says("still here"))
    finished = (await play(bench.agent, "hi"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "failed"
    assert finished.error is not None
    assert finished.error.message == "Internal error: ZeroDivisionError: oh"
    assert "ZeroDivisionError" in caplog.text
    assert (await play(bench.agent, "again"))[-1].reason == "completed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (TurnLimits(max_turns=2), "max_turns"),
        (TurnLimits(max_tool_calls=2), "max_tool_calls"),
        (TurnLimits(max_tokens=30), "max_tokens"),
    ],
)
async def test_a_limit_ends_the_turn_and_is_named(limits: TurnLimits, name: str) -> None:
    paths = [{"path": "a.py"}, {"path": "b.py"}, {"path": "c.py"}]
    bench = Bench(*(calls(("read_file", path)) for path in paths), limits=limits)
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "limit"
    assert isinstance(finished.error, LimitReached)
    assert finished.error.limit == name
    assert_well_formed(bench.agent)


async def test_wall_time_is_a_limit_even_inside_a_tool() -> None:
    bench = Bench(
        calls(("run_shell_command", {"command": "sleep"})),
        limits=TurnLimits(max_wall_time_s=0.05),
    )
    bench.shell.hold = asyncio.Event()
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert isinstance(finished.error, LimitReached)
    assert finished.error.limit == "max_wall_time"
    assert_well_formed(bench.agent)


async def test_an_empty_answer_is_asked_about_once() -> None:
    bench = Bench(says(""), says("Here."))
    assert (await play(bench.agent, "go"))[-1].text == "Here."  # type: ignore[union-attr]
    bench = Bench(says(""), says(" \n"))
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "failed"
    assert isinstance(finished.error, InvalidResponse)


ENDLESS: Script = [TextDelta(text="Fixed it. " * 10) for _ in range(1_000)]


async def test_an_endless_answer_is_cut_and_asked_for_again_once() -> None:
    bench = Bench(list(ENDLESS), says("Fixed."))
    events = await play(bench.agent, "go")
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.text) == ("completed", "Fixed.")
    assert len(of_type(events, TextDelta)) < 50
    assert len(of_type(events, Retrying)) == 1
    first, second = bench.model.requests
    assert second.messages == first.messages
    assert first.sampling.temperature is None
    assert second.sampling.temperature == 1.0
    assert bench.model.num_closed == 2


async def test_a_second_endless_answer_ends_the_turn() -> None:
    bench = Bench(list(ENDLESS), list(ENDLESS))
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert isinstance(finished.error, InvalidResponse)
    assert len(bench.model.requests) == 2


async def test_retrying_voids_the_text_so_far() -> None:
    hold = asyncio.Event()
    bench = Bench(
        [
            TextDelta(text="void"),
            Retrying(attempt=1, wait_s=0, reason="reset"),
            TextDelta(text="kept"),
            hold,
        ]
    )

    async def cancel() -> None:
        await bench.model.waiting.wait()
        bench.agent.cancel()

    _, events = await asyncio.gather(cancel(), play(bench.agent, "go"))
    assert any(isinstance(event, Retrying) for event in events)
    assert isinstance(bench.agent.conversation[-1], AssistantMessage)
    assert bench.agent.conversation[-1].text == "kept"


async def test_an_answer_cut_at_its_token_limit_says_so() -> None:
    message = AssistantMessage(
        blocks=(TextBlock(text="half"),), stop_reason="max_tokens", model="scripted"
    )
    events = await play(Bench([Completed(message=message)]).agent, "go")
    assert of_type(events, Notice)[0].level == "warning"


async def test_call_ids_are_made_unique() -> None:
    bench = Bench(calls(READ_A, ("read_file", {"path": "b.py"})), calls(READ_A), says("ok"))
    twice = [
        Completed(
            message=AssistantMessage(
                blocks=(
                    ToolCall(id="c0", name="read_file", arguments='{"path":"a.py"}'),
                    ToolCall(id="", name="read_file", arguments='{"path":"b.py"}'),
                ),
                stop_reason="tool_calls",
                model="scripted",
            )
        )
    ]
    bench.model.scripts.insert(1, list(twice))
    await play(bench.agent, "go")
    ids = [m.call_id for m in bench.agent.conversation if isinstance(m, ToolMessage)]
    assert len(ids) == 5
    assert len(set(ids)) == 5
    assert_well_formed(bench.agent)


async def test_the_same_call_with_the_same_result_is_nudged_refused_and_stopped() -> None:
    bench = Bench(*(calls(READ_A) for _ in range(9)))
    events = await play(bench.agent, "go")
    contents = [event.result.content for event in of_type(events, ToolFinished)]
    assert len(contents) == 8
    assert contents[:2] == ["print(1)\n"] * 2
    assert all("Repeating it will not help" in content for content in contents[2:4])
    assert all(content.startswith("Not run") for content in contents[4:])
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "failed"
    assert isinstance(finished.error, TaskNotDone)
    assert_well_formed(bench.agent)


@pytest.mark.parametrize(
    ("call", "deny"),
    [
        (("read_file", {"path": "no.py"}), ()),
        (("run_shell_command", {"command": "make"}), ("Bash",)),
        (("open", {}), ()),
        (("read_file", "{"), ()),
    ],
)
async def test_a_call_that_fails_the_same_way_for_ever_is_stopped(
    call: tuple[str, object], deny: tuple[str, ...]
) -> None:
    bench = Bench(*(calls(call) for _ in range(9)), deny=deny)
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert isinstance(finished.error, TaskNotDone)
    assert finished.num_steps == 8


async def test_testing_again_after_each_edit_is_no_repetition() -> None:
    steps = []
    for number in range(10):
        steps.append(calls(("edit", {"path": "a.py", "text": f"print({number + 5})"})))
        steps.append(calls(("run_shell_command", {"command": "pytest"})))
    bench = Bench(*steps, says("done"))
    bench.shell.exit_code = lambda: 1
    finished = (await play(bench.agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "completed"
    assert len(bench.shell.commands) == 10


class AskTwice:
    """A strategy that plans its own calls, as one that leads a weak model does."""

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        call = ToolCall(id="p1", name="read_file", arguments='{"path": "a.py"}')
        message = AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="qcode")
        turn.add(message)
        (result,) = await turn.run_calls(message)
        for number in range(10):  # what the program plans may repeat
            again = replace(call, id=f"again{number}")
            message = AssistantMessage(blocks=(again,), stop_reason="tool_calls", model="qcode")
            turn.add(message)
            assert await turn.run_calls(message) == [result]
        request = ChatRequest(system="", messages=(UserMessage(content=result.content),))
        answer = await turn.stream(request, show=False)
        return TurnOutcome(reason="completed", text=answer.message.text)


async def test_a_special_strategy_takes_the_turn_it_asks_for() -> None:
    script = [ReasoningDelta(text="hm"), *says("seen")]
    bench = Bench(script, says("loop"), strategy_for=lambda p: AskTwice() if "fix" in p else None)
    events = await play(bench.agent, "fix it")
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.text, finished.num_steps) == ("seen", 1)
    assert finished.usage.input_tokens == 10
    assert of_type(events, TextDelta) == []
    assert of_type(events, ReasoningDelta) == []
    assert bench.model.requests[0].messages == (UserMessage(content="print(1)\n"),)
    assert (await play(bench.agent, "else"))[-1].text == "loop"  # type: ignore[union-attr]


async def test_one_turn_at_a_time() -> None:
    bench = Bench(says("x"))
    async with aclosing(bench.agent.run("one")) as events:
        await anext(events)
        with pytest.raises(RuntimeError):
            await anext(bench.agent.run("two"))


async def test_steps_are_numbered() -> None:
    bench = Bench(calls(READ_A), says("x"))
    events = await play(bench.agent, "go")
    assert [event.step for event in of_type(events, StepStarted)] == [1, 2]
