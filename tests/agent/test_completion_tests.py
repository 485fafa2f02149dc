"""Changed files are tested before the work is called done, and what came of it is said."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from loop_parts import PersonWhoSays, Script, ScriptedModel, calls, play, says

from qcode.agent.agent import Agent
from qcode.agent.completion_tests import Tested
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.repair.goal import RepairGoal
from qcode.agent.session import Session
from qcode.agent.turn import ToolLoop
from qcode.agent.turn_work import TurnWork
from qcode.protocol.events import CompletionCheck, TurnFinished
from qcode.protocol.messages import ToolCall, ToolMessage
from qcode.protocol.permissions import Answer, Mode
from qcode.protocol.tools import ToolResult
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.edit import Edit
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile
from qcode.tools.run_shell_command import RunShellCommand

pytestmark = pytest.mark.anyio

TESTS = """\
import unittest
from calc import add

class CalcTest(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
"""
READ = calls(("read_file", {"file_path": "calc.py"}))


def edit(old: str, new: str) -> Script:
    arguments = {"file_path": "calc.py", "old_string": old, "new_string": new}
    return calls(("read_file", {"file_path": "calc.py"}), ("edit", arguments))


RIGHT = edit("a - b", "a + b")
WRONG = edit("a - b", "a * b")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_calc.py").write_text(TESTS)
    return tmp_path


def agent_on(
    root: Path, *scripts: Script, goal: RepairGoal | None = None, mode: Mode = Mode.YOLO
) -> tuple[Agent, ScriptedModel]:
    workspace, records = LocalWorkspace(root), FileRecords()
    model = ScriptedModel(list(scripts))
    agent = Agent(
        backend=model,
        tools=[ReadFile(workspace, records), Edit(workspace, records), RunShellCommand(workspace)],
        policy=PermissionPolicy(mode=mode, workspace_root=root),
        approver=PersonWhoSays(Answer(allowed=False)),
        session=Session(session_id="s"),
        system_prompt="",
        strategy_for=lambda prompt: Tested(ToolLoop(), root=root, goal=goal),
    )
    return agent, model


async def finish(agent: Agent) -> TurnFinished:
    finished = (await play(agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    return finished


async def test_a_right_change_is_tested_and_said_to_be(project: Path) -> None:
    agent, model = agent_on(project, RIGHT, says("Done."))
    finished = await finish(agent)
    assert finished.reason == "completed"
    assert finished.check is not None
    assert finished.check.exit_code == 0
    assert "unittest" in finished.check.command
    assert finished.check.sentence.startswith("Checked: `")
    assert len(model.requests) == 2


async def test_a_wrong_change_goes_back_with_the_failure(project: Path) -> None:
    mend = edit("a * b", "a + b")
    agent, model = agent_on(project, WRONG, says("Done."), mend, says("Now it is."))
    finished = await finish(agent)
    assert (finished.reason, finished.text) == ("completed", "Now it is.")
    assert finished.check is not None
    assert finished.check.exit_code == 0
    failure = model.requests[2].messages[-1]
    assert isinstance(failure, ToolMessage)
    assert "AssertionError: 2 != 3" in failure.content


async def test_a_suite_that_goes_on_failing_is_told_and_not_called_a_failure(
    project: Path,
) -> None:
    agent, _ = agent_on(project, WRONG, says("Done."), says("It was broken before."))
    finished = await finish(agent)
    assert finished.reason == "completed"
    assert finished.check is not None
    assert finished.check.exit_code == 1
    assert "fails (exit code 1)" in finished.check.sentence


async def test_a_test_that_was_to_pass_and_does_not_is_a_failure(project: Path) -> None:
    goal = RepairGoal(test="test_add")
    agent, _ = agent_on(project, says("Done."), says("Done, I said."), goal=goal)
    finished = await finish(agent)
    assert finished.reason == "failed"
    assert finished.error is not None
    assert "fails" in finished.error.message


async def test_what_the_model_has_just_run_is_not_run_again(project: Path) -> None:
    own = calls(("run_shell_command", {"command": f"{sys.executable} -m unittest test_calc"}))
    agent, model = agent_on(project, RIGHT, own, says("Done."))
    finished = await finish(agent)
    assert finished.check is not None
    assert finished.check.command.endswith("-m unittest test_calc")
    commands = [m for m in agent.conversation if isinstance(m, ToolMessage)]
    assert [m.name for m in commands].count("run_shell_command") == 1
    assert len(model.requests) == 3


async def test_a_run_before_the_last_change_does_not_count(project: Path) -> None:
    own = calls(("run_shell_command", {"command": f"{sys.executable} -m unittest"}))
    agent, _ = agent_on(project, RIGHT, own, edit("a + b", "b + a"), says("Done."))
    finished = await finish(agent)
    commands = [m for m in agent.conversation if isinstance(m, ToolMessage)]
    assert [m.name for m in commands].count("run_shell_command") == 2
    assert finished.check is not None
    assert finished.check.exit_code == 0


async def test_a_question_runs_nothing(project: Path) -> None:
    agent, _ = agent_on(project, READ, says("It adds."))
    assert (await finish(agent)).check is None


async def test_a_change_through_the_shell_is_a_change(project: Path) -> None:
    old = time.time() - 60
    for name in ("calc.py", "test_calc.py"):
        os.utime(project / name, (old, old))
    mend = calls(("run_shell_command", {"command": "sed -i 's/a - b/a + b/' calc.py"}))
    agent, _ = agent_on(project, mend, says("Done."))
    check = (await finish(agent)).check
    assert check is not None
    assert check.exit_code == 0
    agent, _ = agent_on(project, calls(("run_shell_command", {"command": "true"})), says("Yes."))
    os.utime(project / "calc.py", (old, old))
    assert (await finish(agent)).check is None


async def test_what_may_not_run_is_said(project: Path) -> None:
    agent, model = agent_on(project, RIGHT, says("Done."), mode=Mode.AUTO_EDIT)
    finished = await finish(agent)
    assert finished.reason == "completed"
    assert finished.check is not None
    assert finished.check.exit_code is None
    assert finished.check.sentence.startswith("Not checked: `")
    assert len(model.requests) == 2


async def test_a_project_without_tests_is_left_alone(project: Path) -> None:
    (project / "test_calc.py").unlink()
    agent, _ = agent_on(project, RIGHT, says("Done."))
    assert (await finish(agent)).check is None


@pytest.mark.parametrize(
    ("command", "counts"),
    [
        ("pytest -q", True),
        ("pytest -q | tail -3", False),  # the exit code is that of tail
        ("pytest; true", False),
        ("pytest || true", False),
        ("git diff", False),
    ],
)
def test_only_a_command_alone_has_an_exit_code_of_its_own(command: str, counts: bool) -> None:
    work = TurnWork()
    call = ToolCall(id="c", name="run_shell_command", arguments=f'{{"command": "{command}"}}')
    work.record([call], [ToolResult(content="", exit_code=0)])
    assert [run.command for run in work.runs_since_change] == ([command] if counts else [])


def test_looking_at_files_does_not_age_a_run() -> None:
    work = TurnWork()
    for command in ("pytest", "git diff", "ls"):
        call = ToolCall(id="c", name="run_shell_command", arguments=f'{{"command": "{command}"}}')
        work.record([call], [ToolResult(content="", exit_code=0)])
    assert [run.command for run in work.runs_since_change] == ["pytest"]


def test_each_outcome_has_its_sentence() -> None:
    check = CompletionCheck(kind="tests", command="t", exit_code=None, reason="Denied.")
    assert check.sentence == "Not checked: `t` was not run. Denied."
