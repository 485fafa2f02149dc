"""Of several attempts the one that passes is put in place, or none is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from loop_parts import PersonWhoSays, play

from qcode.agent.agent import Agent
from qcode.agent.best_of import BestOf
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session import Session
from qcode.agent.turn import TurnStrategy
from qcode.agent.verification import VerifyCommand
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk, Completed
from qcode.protocol.events import TurnFinished
from qcode.protocol.messages import AssistantMessage, TextBlock, ToolCall, ToolMessage, Usage
from qcode.protocol.permissions import Answer, Mode
from qcode.protocol.sampling import SamplingParams
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.file_records import FileRecords
from qcode.tools.run_shell_command import RunShellCommand
from qcode.tools.write_file import WriteFile

pytestmark = pytest.mark.anyio

CHECK = f"{sys.executable} -B -c 'from answer import value; assert value == 42'"


class Attempting:
    """A model that writes another value for each seed. All attempts must have begun before one
    gets its answer: they run at the same time, or the test runs out of it."""

    def __init__(self, values: dict[int, int]) -> None:
        self.values = values
        self.waiting = 0
        self.all_here = asyncio.Event()
        self.hold = False

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name="attempting", context_window=None)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.waiting += 1
        if self.waiting >= len(self.values):
            self.all_here.set()
        await self.all_here.wait()
        if self.hold:
            await asyncio.Event().wait()
        seed = request.sampling.seed
        assert seed is not None
        text = f'{{"file_path": "value_{seed}.py", "content": "value = {self.values[seed]}\\n"}}'
        call: ToolCall | TextBlock = ToolCall(id="w", name="write_file", arguments=text)
        if any(isinstance(message, ToolMessage) for message in request.messages):
            call = TextBlock(text=f"Written by {seed}.")
        yield Completed(
            message=AssistantMessage(
                blocks=(call,),
                stop_reason="end",
                model="attempting",
                usage=Usage(input_tokens=10, output_tokens=1),
            )
        )

    async def aclose(self) -> None:
        pass


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "answer.py").write_text(
        "import glob, re\n"
        "files = glob.glob('value_*.py')\n"
        "value = int(re.findall('value = (.*)', open(files[0]).read())[0]) if files else 0\n"
    )
    return root


def agent_on(
    root: Path,
    model: Attempting,
    *,
    strategy_for: Callable[[str], TurnStrategy] | None = None,
    seed: int | None = None,
) -> Agent:
    workspace = LocalWorkspace(root)
    return Agent(
        backend=model,
        tools=[WriteFile(workspace, FileRecords()), RunShellCommand(workspace)],
        policy=PermissionPolicy(mode=Mode.YOLO, workspace_root=root),
        approver=PersonWhoSays(Answer(allowed=True)),
        session=Session(session_id="s"),
        system_prompt="",
        verify=VerifyCommand(command=CHECK, max_attempts=1),
        strategy_for=strategy_for,
        sampling=SamplingParams(seed=seed),
    )


def best_of(root: Path, model: Attempting) -> Agent:
    folders: list[Path] = []

    def attempt(folder: Path, number: int) -> Agent:
        folders.append(folder)
        return agent_on(folder, model, seed=number)

    strategy = BestOf(
        root=root,
        attempts=len(model.values),
        attempt_agent=attempt,
        patches=root.parent / "patches",
    )
    agent = agent_on(root, model, strategy_for=lambda prompt: strategy)
    agent.folders = folders  # type: ignore[attr-defined]
    return agent


async def finish(agent: Agent) -> TurnFinished:
    finished = (await play(agent, "go"))[-1]
    assert isinstance(finished, TurnFinished)
    assert not any(folder.exists() for folder in agent.folders)  # type: ignore[attr-defined]
    return finished


def written(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("value_*"))


async def test_the_attempt_that_passes_is_put_in_place_and_verified_there(project: Path) -> None:
    finished = await finish(best_of(project, Attempting({1: 7, 2: 42, 3: 8})))
    assert (finished.reason, finished.verify_exit_code) == ("completed", 0)
    assert written(project) == ["value_2.py"]
    assert "Written by 2." in finished.text
    assert "Attempt 2 of 3 passed" in finished.text
    assert finished.usage.input_tokens >= 40


async def test_where_none_passes_nothing_is_changed_and_the_truth_is_told(project: Path) -> None:
    finished = await finish(best_of(project, Attempting({1: 7, 2: 8})))
    assert (finished.reason, finished.verify_exit_code) == ("failed", 1)
    assert written(project) == []


async def test_a_file_that_appeared_meanwhile_is_not_overwritten(project: Path) -> None:
    model = Attempting({1: 42})
    agent = best_of(project, model)
    stop = asyncio.create_task(model.all_here.wait())
    stop.add_done_callback(lambda _: (project / "value_1.py").write_text("value = 'mine'\n"))
    finished = await finish(agent)
    assert finished.reason == "failed"
    assert finished.error is not None
    assert "value_1.py" in finished.error.message
    assert (project / "value_1.py").read_text() == "value = 'mine'\n"
    (patch,) = (project.parent / "patches").iterdir()
    assert "+value = 42" in patch.read_text()
    assert str(patch) in finished.error.hint


async def test_a_stop_leaves_nothing_behind(project: Path) -> None:
    model = Attempting({1: 42, 2: 42})
    model.hold = True
    agent = best_of(project, model)
    async with aclosing(agent.run("go")) as events:
        reading = asyncio.ensure_future(_last(events))
        await model.all_here.wait()
        agent.cancel()
        finished = await reading
    assert finished.reason == "cancelled"
    assert written(project) == []
    assert not any(folder.exists() for folder in agent.folders)  # type: ignore[attr-defined]


async def _last(events: AsyncGenerator[object, None]) -> TurnFinished:
    finished = None
    async for event in events:
        finished = event
    assert isinstance(finished, TurnFinished)
    return finished
