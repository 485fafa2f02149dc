"""The agent with the tools it is shipped with, on real files and processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from loop_parts import PersonWhoSays, ScriptedModel, assert_well_formed, calls, of_type, play, says

from qcode.agent.agent import Agent
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session_store import SessionStore
from qcode.agent.verification import VerifyCommand
from qcode.protocol.events import ToolFinished, TurnFinished
from qcode.protocol.messages import ToolMessage
from qcode.protocol.permissions import Answer, Mode
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.edit import Edit
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile
from qcode.tools.run_shell_command import RunShellCommand

pytestmark = pytest.mark.anyio

CHECK = f"{sys.executable} -B -c 'import calc; assert calc.add(1, 2) == 3'"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    return root


def agent_on(project: Path, store: SessionStore, model: ScriptedModel) -> Agent:
    workspace = LocalWorkspace(project)
    records = FileRecords()
    return Agent(
        backend=model,
        tools=[ReadFile(workspace, records), Edit(workspace, records), RunShellCommand(workspace)],
        policy=PermissionPolicy(mode=Mode.AUTO_EDIT, workspace_root=project),
        approver=PersonWhoSays(Answer(allowed=False)),
        session=store.create(),
        system_prompt="Fix it.",
        verify=VerifyCommand(command=CHECK),
    )


async def test_a_bug_is_fixed_verified_and_remembered(project: Path, tmp_path: Path) -> None:
    edit = {"file_path": "calc.py", "old_string": "a - b", "new_string": "a + b"}
    model = ScriptedModel(
        [
            says("Looks right to me."),
            calls(("edit", edit)),  # not read yet, so refused
            calls(("read_file", {"file_path": "calc.py"}), ("edit", edit)),
            calls(("run_shell_command", {"command": "rm calc.py"})),
            says("Fixed."),
        ]
    )
    store = SessionStore(tmp_path / "sessions", project)
    agent = agent_on(project, store, model)
    events = await play(agent, "add is wrong")
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert (finished.reason, finished.text, finished.verify_exit_code) == ("completed", "Fixed.", 0)
    assert (project / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"
    outcomes = [(f.call.name, f.result.is_error) for f in of_type(events, ToolFinished)]
    assert [name for name, _ in outcomes] == [
        "run_shell_command",
        "edit",
        "read_file",
        "edit",
        "run_shell_command",
        "run_shell_command",
    ]
    assert [is_error for _, is_error in outcomes][1:5] == [True, False, False, True]
    first_check = model.requests[1].messages[-1]
    assert isinstance(first_check, ToolMessage)
    assert "AssertionError" in first_check.content
    assert_well_formed(agent)
    assert store.fork(agent.session.id).conversation() == agent.conversation
    (path,) = (tmp_path / "sessions").glob(f"*/{agent.session.id}.jsonl")
    kinds = [json.loads(line)["entry"]["type"] for line in path.read_bytes().splitlines()]
    assert "decision" in kinds
