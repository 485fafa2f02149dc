"""A stored session runs again the same, and where it does not the first difference is found."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from loop_parts import PersonWhoSays, Script, ScriptedModel, calls, play, says

from qcode.agent.agent import Agent
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.replay import NoModel, Replay, Replayed
from qcode.agent.session import Entry, MessageEntry, RequestEntry, Session
from qcode.agent.session_store import SessionStore, read_records
from qcode.protocol.backends import Backend
from qcode.protocol.events import TurnFinished
from qcode.protocol.messages import UserMessage
from qcode.protocol.permissions import Answer, Mode
from qcode.protocol.sampling import SamplingParams
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.edit import Edit
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile
from qcode.tools.run_shell_command import RunShellCommand

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "session.jsonl"
UPDATE = bool(os.environ.get("QCODE_UPDATE_GOLDEN"))


def answers() -> list[Script]:
    edit = {"file_path": "calc.py", "old_string": "a - b", "new_string": "a + b"}
    return [
        calls(("read_file", {"file_path": "calc.py"}), ("read_file", {"file_path": "none.py"})),
        calls(("edit", edit)),
        calls(("run_shell_command", {"command": "cat calc.py && echo took 0.31s"})),
        says("Fixed."),
        says("You are welcome."),
    ]


def new_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    return folder


def agent_on(root: Path, model: Backend, session: Session) -> Agent:
    workspace, records = LocalWorkspace(root), FileRecords()
    return Agent(
        backend=model,
        tools=[ReadFile(workspace, records), Edit(workspace, records), RunShellCommand(workspace)],
        policy=PermissionPolicy(mode=Mode.YOLO, workspace_root=root),
        approver=PersonWhoSays(Answer(allowed=True)),
        session=session,
        system_prompt="Fix it.",
        sampling=SamplingParams(temperature=0.5, seed=7),
    )


async def recorded(tmp_path: Path) -> tuple[Entry, ...]:
    store = SessionStore(tmp_path / "sessions", tmp_path)
    agent = agent_on(new_project(tmp_path / "first"), ScriptedModel(answers()), store.create())
    await play(agent, "Fix add.")
    await play(agent, "Thanks.")
    agent.session.close()
    return read_records(store.find(agent.session.id).path).entries


async def run_again(root: Path, replay: Replay, model: Backend | None = None) -> Replayed:
    agent = agent_on(root, model or NoModel(), Session(session_id="replay"))
    events = [event async for event in agent.play(replay)]
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "completed", finished.error
    return replay.done


async def test_a_record_makes_the_same_requests_again(tmp_path: Path) -> None:
    done = await run_again(tmp_path, Replay(record=await recorded(tmp_path)))
    assert done.difference is None
    assert (done.num_requests, done.num_answers, done.num_results) == (5, 0, 0)


async def test_the_record_holds_what_the_model_was_asked_with(tmp_path: Path) -> None:
    requests = [entry for entry in await recorded(tmp_path) if isinstance(entry, RequestEntry)]
    assert [entry.system for entry in requests] == ["Fix it.", None, None, None, None]
    assert requests[0].tools is not None
    assert [tool.name for tool in requests[0].tools] == ["read_file", "edit", "run_shell_command"]
    assert {entry.sampling.seed for entry in requests} == {7}


async def test_a_conversation_that_reads_otherwise_is_found(tmp_path: Path) -> None:
    entries = list(await recorded(tmp_path))
    for index, entry in enumerate(entries):
        if isinstance(entry, MessageEntry) and entry.message == UserMessage(content="Thanks."):
            entries[index] = replace(entry, message=UserMessage(content="Thank you."))
    difference = (await run_again(tmp_path, Replay(record=entries))).difference
    assert difference is not None
    assert difference.step == 4
    assert "[user] Thank you." in difference.report()


async def test_tools_run_afresh_give_the_same(tmp_path: Path) -> None:
    record = await recorded(tmp_path)
    root = new_project(tmp_path / "second")
    done = await run_again(root, Replay(record=record, live=True))
    assert done.difference is None, done.difference
    assert done.num_results == 4
    assert "a + b" in (root / "calc.py").read_text()


async def test_paths_of_the_record_are_those_of_the_folder_it_runs_in(tmp_path: Path) -> None:
    then, now = new_project(tmp_path / "then"), new_project(tmp_path / "now")
    read = calls(("read_file", {"file_path": f"{then}/calc.py"}))
    list_it = calls(("run_shell_command", {"command": f"ls {then}/none {then}/calc.py 2>&1"}))
    agent = agent_on(then, ScriptedModel([read, list_it, says("ok")]), Session(session_id="s"))
    await play(agent, "Look.")
    shutil.rmtree(then)
    replay = Replay(record=agent.session.entries, live=True, moved=(then, now))
    done = await run_again(now, replay)
    assert done.difference is None, done.difference.report()
    assert done.num_results == 2


async def test_the_first_other_result_is_found(tmp_path: Path) -> None:
    record = await recorded(tmp_path)
    root = new_project(tmp_path / "second")
    (root / "calc.py").write_text("def add(a, b):\n    return a - b  # changed\n")
    difference = (await run_again(root, Replay(record=record, live=True))).difference
    assert difference is not None
    assert (difference.step, difference.what) == (1, "the result of read_file")
    assert "# changed" in difference.report()


async def test_a_model_that_answers_the_same_is_told_so(tmp_path: Path) -> None:
    record = await recorded(tmp_path)
    model = ScriptedModel(answers())
    done = await run_again(tmp_path, Replay(record=record, ask=True), model)
    assert done.difference is None, done.difference
    assert done.num_answers == 5
    assert {request.sampling.temperature for request in model.requests} == {0.5}
    assert model.requests[0].system == "Fix it."


async def test_the_first_other_answer_is_found(tmp_path: Path) -> None:
    record = await recorded(tmp_path)
    scripts = answers()
    scripts[3] = says("It is mended.")
    model = ScriptedModel(scripts)
    difference = (await run_again(tmp_path, Replay(record=record, ask=True), model)).difference
    assert difference is not None
    assert difference.step == 4
    report = difference.report()
    assert "-Fixed." in report
    assert "+It is mended." in report
    assert len(model.requests) == 4


async def test_it_can_end_early(tmp_path: Path) -> None:
    record = await recorded(tmp_path)
    done = await run_again(new_project(tmp_path / "n"), Replay(record=record, live=True, until=1))
    assert (done.num_requests, done.num_results) == (1, 2)


async def test_the_golden_session_still_runs_as_it_did(tmp_path: Path) -> None:
    """Conversations, requests, edits and cut output as they were when it was stored: a change of
    how sessions are read or results are told shows here."""
    if UPDATE:
        await recorded(tmp_path / "new")
        (stored,) = (tmp_path / "new" / "sessions").rglob("*.jsonl")
        shutil.copy(stored, GOLDEN)
    records = read_records(GOLDEN)
    assert records.num_damaged == 0
    done = await run_again(tmp_path, Replay(record=records.entries))
    assert done.difference is None, done.difference
    root = new_project(tmp_path / "again")
    live = await run_again(root, Replay(record=records.entries, live=True))
    assert live.difference is None, live.difference.report()
    model = ScriptedModel(answers())
    asked = await run_again(tmp_path, Replay(record=records.entries, ask=True), model)
    assert asked.difference is None


def test_a_session_without_requests_is_not_called_the_same() -> None:
    assert Replayed().report().startswith("Nothing to compare")
