"""Which way a repair is worked on: led by the harness, or by a model strong enough to lead."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from qcode.agent.recent_files import READ_TOOL, reading
from qcode.agent.repair.discovery import discover_runners
from qcode.agent.repair.goal import RepairGoal
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.repair import RepairBudget, RepairStrategy
from qcode.agent.repair.runners import runner_of
from qcode.agent.repair.sources import Suspects, find_suspects
from qcode.agent.repair.trial import Trial
from qcode.agent.turn import ToolLoop, TurnContext, TurnOutcome, TurnStrategy
from qcode.agent.turn_work import SHELL_TOOL
from qcode.protocol.backends import ModelInfo
from qcode.protocol.errors import TaskNotDone

FIRST_RUN_LIMIT_S = 120.0
MAX_SUSPECTS_READ = 2


def repair_strategy(
    goal: RepairGoal,
    *,
    model: ModelInfo,
    root: Path,
    verify: str | None = None,
    budget: RepairBudget | None = None,
) -> TurnStrategy:
    if model.strength == "small":
        return RepairStrategy(root=root, goal=goal, verify=verify, budget=budget)
    return FailureFirst(root=root, goal=goal)


class FailureFirst:
    """The tool loop, opened with what fails and the files behind it: a strong model would run the
    same command and read the same files first, and is spared those steps. It leads from there."""

    def __init__(self, *, root: Path, goal: RepairGoal) -> None:
        self._project = ProjectFiles(root)
        self._goal = goal

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        # Where the command is not allowed, the model reads the refusal and leads on without it.
        with contextlib.suppress(TaskNotDone):
            await self._open(turn)
        return await ToolLoop().run(prompt, turn)

    async def _open(self, turn: TurnContext) -> None:
        command = self._goal.command
        if command is None:
            runners = await asyncio.to_thread(discover_runners, self._project)
            runner = runners[0] if runners else None
        else:
            runner = runner_of(command)
        if runner is None or SHELL_TOOL not in turn.tools:
            return
        paths = await asyncio.to_thread(self._project.paths)
        only = runner.named(self._goal.test, paths) if self._goal.test else runner.suite
        run = await Trial(turn, self._project).run(only, timeout_s=FIRST_RUN_LIMIT_S)
        failure = None if run.passed else runner.report(run.output).first
        if failure is None or READ_TOOL not in turn.tools:
            return
        suspects = await asyncio.to_thread(find_suspects, failure, self._project)
        test = suspects.test.path
        files = _near(suspects) if test is None else [test, *_near(suspects)]
        if files:
            message = reading(list(dict.fromkeys(files)))
            turn.add(message)
            await turn.run_calls(message)


def _near(suspects: Suspects) -> list[str]:
    """The files that hold the likeliest definitions, those first."""
    ranked = dict.fromkeys(item.path for item in suspects.ranked)
    return [*ranked, *(path for path in suspects.files if path not in ranked)][:MAX_SUSPECTS_READ]
