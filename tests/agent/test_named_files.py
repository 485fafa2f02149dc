"""Files that a prompt names are read before a small model is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from loop_parts import PersonWhoSays, ScriptedModel, assert_well_formed, of_type, play, says

from qcode.agent.agent import Agent
from qcode.agent.named_files import MAX_BYTES, ReadNamedFiles, named_files
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session import Session
from qcode.protocol.events import ToolFinished
from qcode.protocol.messages import ToolMessage
from qcode.protocol.permissions import Answer, Mode
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    for name in ("cart.py", "src/price.py", "größe.py", "Makefile", ".env"):
        (root / name).write_text("TOTAL = 1\n")
    (root / "big.py").write_text("#" * (MAX_BYTES + 1))
    (tmp_path / "outside.py").write_text("x = 1\n")
    return root


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("explain this function in cart.py", ("cart.py",)),
        ("What do `src/price.py`, (cart.py) and @cart.py do?", ("src/price.py", "cart.py")),
        ("look at ./cart.py.", ("./cart.py",)),
        ("größe.py?", ("größe.py",)),
        ("explain the cart, see src and src/", ()),
        ("read ../outside.py, .env, big.py and nothere.py", ()),
        ("x" * 5000 + ".py", ()),
    ],
)
def test_names_of_files_below_the_root_count(
    project: Path, prompt: str, names: tuple[str, ...]
) -> None:
    assert named_files(prompt, project) == names


async def test_the_model_is_asked_with_the_file_in_view(project: Path) -> None:
    model = ScriptedModel([says("It has a total.")])
    agent = Agent(
        backend=model,
        tools=[ReadFile(LocalWorkspace(project), FileRecords())],
        policy=PermissionPolicy(mode=Mode.DEFAULT, workspace_root=project),
        approver=PersonWhoSays(Answer(allowed=False)),
        session=Session(session_id="s"),
        system_prompt="Explain.",
        strategy_for=lambda prompt: ReadNamedFiles(project),
    )
    events = await play(agent, "explain cart.py")
    assert [finished.title for finished in of_type(events, ToolFinished)] == ["Read cart.py"]
    (request,) = model.requests
    last = request.messages[-1]
    assert isinstance(last, ToolMessage)
    assert "TOTAL = 1" in last.content
    assert_well_formed(agent)
