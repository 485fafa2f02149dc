"""Every call ends in one result, and nothing runs that was not asked for."""

from __future__ import annotations

import asyncio

import pytest
from loop_parts import Bench, assert_well_formed, calls, play, says

from qcode.agent.large_results import MAX_CONTENT_CHARS
from qcode.agent.session import DecisionEntry
from qcode.agent.tool_calls import FAILED, MAX_CALLS_PER_ANSWER
from qcode.protocol.events import (
    ApprovalRequested,
    ApprovalResolved,
    ToolFinished,
    ToolStarted,
)
from qcode.protocol.messages import ToolMessage
from qcode.protocol.permissions import Answer, Mode

pytestmark = pytest.mark.anyio


async def results(bench: Bench) -> list[ToolMessage]:
    await play(bench.agent, "go")
    assert_well_formed(bench.agent)
    return [m for m in bench.agent.conversation if isinstance(m, ToolMessage)]


async def result_of(name: str, arguments: object, **options: object) -> ToolMessage:
    bench = Bench(calls((name, arguments)), says("ok"), **options)  # type: ignore[arg-type]
    (message,) = await results(bench)
    return message


async def test_an_unknown_tool_names_the_known_ones() -> None:
    message = await result_of("open", {"path": "a.py"})
    assert message.is_error
    assert message.content == (
        "There is no tool named 'open'. The tools are: edit, read_file, run_shell_command."
    )


async def test_invalid_arguments_name_the_fields() -> None:
    message = await result_of("edit", {"path": 7})
    assert message.is_error
    assert "path: Input should be a valid string" in message.content
    assert "text: Field required" in message.content
    assert "Its fields: path (required), text (required), tags." in message.content


@pytest.mark.parametrize("arguments", ['{"path": "a.py', '{"path": "a.py"', '{"path":', "{"])
async def test_arguments_that_were_cut_off_are_never_completed(arguments: str) -> None:
    message = await result_of("read_file", arguments)
    assert message.is_error
    assert "incomplete" in message.content


async def test_a_read_with_damaged_arguments_is_mended_and_says_so() -> None:
    message = await result_of("read_file", "{'path': 'a.py',}")
    assert not message.is_error
    assert message.content.endswith("print(1)\n")
    assert "not valid JSON" in message.content
    assert "{'path': 'a.py'}" in message.content


async def test_a_write_with_damaged_arguments_is_not_run() -> None:
    bench = Bench(calls(("edit", "{'path': 'a.py', 'text': 'x'}")), says("ok"))
    (message,) = await results(bench)
    assert message.is_error
    assert "not valid JSON" in message.content
    assert bench.files["a.py"] == "print(1)\n"


@pytest.mark.parametrize("arguments", ["nonsense", "[1]", '"text"', "null"])
async def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    assert (await result_of("read_file", arguments)).is_error


async def test_of_a_field_given_twice_the_last_is_taken_and_said() -> None:
    message = await result_of("read_file", '{"path": "no.py", "path": "a.py"}')
    assert message.content == "path was given twice; the last was taken.\nprint(1)\n"
    same = await result_of("read_file", '{"path": "a.py", "path": "a.py"}')
    assert same.content == "print(1)\n"


@pytest.mark.parametrize("name", ["edit", "read_file"])
async def test_unknown_fields_are_refused_by_name(name: str) -> None:
    arguments = {"path": "a.py", "text": "x", "file": "b.py", "mode": 1}
    bench = Bench(calls((name, arguments)), says("ok"))
    (message,) = await results(bench)
    assert message.is_error
    assert "file: there is no such field; mode: there is no such field" in message.content
    assert "Its fields: path (required), " in message.content
    assert bench.files["a.py"] == "print(1)\n"


async def test_values_given_as_text_are_read_by_schema_and_it_is_said() -> None:
    message = await result_of("read_file", {"path": "a.py", "limit": "3"})
    assert message.content == "limit was given as text and read as a number: 3\nprint(1)\n"
    listed = await result_of("edit", {"path": "a.py", "text": "[1]", "tags": '["one"]'})
    assert not listed.is_error
    assert 'tags was given as text and read as a list: ["one"]' in listed.content
    assert "text was" not in listed.content
    bad = await result_of("read_file", {"path": "a.py", "limit": "many"})
    assert bad.is_error
    assert "limit: Input should be a valid integer" in bad.content


@pytest.mark.parametrize("arguments", ['{"path": NaN}', '{"path": ' + "[" * 100_000])
async def test_what_json_does_not_know_is_refused(arguments: str) -> None:
    message = await result_of("read_file", arguments)
    assert message.is_error
    assert message.content.startswith("Not run: ")


async def test_a_raw_newline_in_a_string_has_one_reading_only() -> None:
    bench = Bench(calls(("edit", '{"path": "a.py", "text": "x\ny"}')), says("ok"))
    await results(bench)
    assert bench.files["a.py"] == "x\ny"


async def test_a_list_written_as_text_is_read_as_a_list() -> None:
    arguments = {"path": "a.py", "text": "x", "tags": '["one"]'}
    assert not (await result_of("edit", arguments)).is_error
    bad = await result_of("edit", {"path": "a.py", "text": "x", "tags": "one"})
    assert "tags: Input should be a valid list" in bad.content


async def test_a_tool_error_is_told_with_its_hint() -> None:
    message = await result_of("read_file", {"path": "no.py"})
    assert message.is_error
    assert message.content == "No file no.py.\nList the directory."


async def test_an_edit_that_changes_nothing_is_not_run_or_asked_about() -> None:
    bench = Bench(
        calls(("edit", {"path": "a.py", "text": "print(1)\n"})),
        says("ok"),
        mode=Mode.DEFAULT,
    )
    (message,) = await results(bench)
    assert "change nothing" in message.content
    assert bench.person.asked == []


async def test_a_tool_with_a_bug_still_leaves_a_result() -> None:
    bench = Bench(calls(("run_shell_command", {"command": "x"}), ("read_file", {"path": "a.py"})))

    def bug() -> int:
        raise ZeroDivisionError

    bench.shell.exit_code = bug
    first, second = await results(bench)
    assert (first.content, first.is_error) == (FAILED, True)
    assert second.is_error


async def test_what_the_policy_denies_is_not_run_and_the_reason_is_told() -> None:
    bench = Bench(
        calls(("run_shell_command", {"command": "rm"})),
        says("ok"),
        deny=("Bash",),
    )
    (message,) = await results(bench)
    assert message.content == "Permission denied: deny rule Bash"
    assert bench.shell.commands == []
    assert bench.person.asked == []


async def test_a_refusal_carries_the_persons_note() -> None:
    bench = Bench(
        calls(("edit", {"path": "a.py", "text": "x"})),
        says("ok"),
        mode=Mode.DEFAULT,
        answer=Answer(allowed=False, note="Use b.py."),
    )
    events = await play(bench.agent, "go")
    message = bench.agent.conversation[2]
    assert isinstance(message, ToolMessage)
    assert "Use b.py." in message.content
    assert "edits ask in this mode" in message.content
    assert bench.files["a.py"] == "print(1)\n"
    kinds = [event.type for event in events if "approval" in event.type or "tool" in event.type]
    assert kinds == ["approval_requested", "approval_resolved", "tool_finished"]


async def test_allowed_for_the_session_is_not_asked_again() -> None:
    command = ("run_shell_command", {"command": "make all"})
    other = ("run_shell_command", {"command": "make clean"})
    bench = Bench(
        calls(command, command, other),
        says("ok"),
        mode=Mode.DEFAULT,
        answer=Answer(allowed=True, scope="session"),
    )
    await results(bench)
    assert [request.target for request in bench.person.asked] == ["make all", "make clean"]
    assert bench.shell.commands == ["make all", "make all", "make clean"]
    assert bench.agent.suggested_rule(bench.person.asked[0]) == "Bash(make all)"


async def test_decisions_are_kept_with_the_session() -> None:
    bench = Bench(
        calls(("read_file", {"path": "a.py"}), ("run_shell_command", {"command": "make"})),
        says("ok"),
        mode=Mode.DEFAULT,
    )
    await results(bench)
    decisions = [entry for entry in bench.agent.session.entries if isinstance(entry, DecisionEntry)]
    assert [(entry.target, entry.allowed, entry.by) for entry in decisions] == [
        ("a.py", True, "policy"),
        ("make", True, "person"),
    ]


async def test_one_question_at_a_time_and_before_the_start() -> None:
    edits = [("edit", {"path": "a.py", "text": str(n)}) for n in range(2)]
    bench = Bench(calls(*edits), says("ok"), mode=Mode.DEFAULT)
    events = await play(bench.agent, "go")
    kinds = (ApprovalRequested, ApprovalResolved, ToolStarted, ToolFinished)
    assert [type(event) for event in events if isinstance(event, kinds)] == [*kinds, *kinds]
    # The second question shows the file as the first edit left it.
    second = bench.person.asked[1].preview
    assert second is not None
    assert second.old_text == "0"  # type: ignore[union-attr]


async def test_reads_run_together_and_their_results_stay_in_order() -> None:
    bench = Bench(
        calls(
            ("read_file", {"path": "b.py"}),
            ("read_file", {"path": "a.py"}),
            ("edit", {"path": "a.py", "text": "x"}),
            ("read_file", {"path": "a.py"}),
        ),
        says("ok"),
    )
    gate = bench.reads.gate = asyncio.Event()

    async def open_gate() -> None:
        await bench.reads.two_running.wait()
        assert bench.files["a.py"] == "print(1)\n"
        gate.set()

    _, messages = await asyncio.gather(open_gate(), results(bench))
    assert bench.reads.most_running == 2
    assert [message.content for message in messages] == [
        "print(2)\n",
        "print(1)\n",
        "Written.",
        "x",
    ]


async def test_an_edit_may_rest_on_a_read_of_the_same_answer() -> None:
    bench = Bench(
        calls(("read_file", {"path": "a.py"}), ("edit", {"path": "a.py", "text": "x"})), says("ok")
    )
    bench.edits.only_after = bench.reads
    _, edited = await results(bench)
    assert edited.content == "Written."


async def test_one_failing_read_leaves_the_others_alone() -> None:
    bench = Bench(
        calls(("read_file", {"path": "no.py"}), ("read_file", {"path": "a.py"})), says("ok")
    )
    first, second = await results(bench)
    assert (first.is_error, second.is_error) == (True, False)


async def test_a_flood_of_calls_is_bounded() -> None:
    many = [("read_file", {"path": f"{n}.py"}) for n in range(MAX_CALLS_PER_ANSWER + 2)]
    messages = await results(Bench(calls(*many), says("ok")))
    assert len(messages) == MAX_CALLS_PER_ANSWER + 2
    assert [message.content.startswith("Not run") for message in messages[-3:]] == [
        False,
        True,
        True,
    ]


async def test_long_output_keeps_its_head_and_tail() -> None:
    bench = Bench(calls(("read_file", {"path": "a.py"})), says("ok"))
    bench.files["a.py"] = "first" + "x" * 100_000 + "last"
    (message,) = await results(bench)
    assert len(message.content) < MAX_CONTENT_CHARS + 100
    assert message.content.startswith("first")
    assert message.content.endswith("last")
    assert "70009 characters left out" in message.content
