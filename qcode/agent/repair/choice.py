"""Which way a repair is worked on: led by the harness, or by a model strong enough to lead."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from qcode.agent.repair.discovery import discover_runners
from qcode.agent.repair.goal import RepairGoal, find_goal
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.repair import RepairBudget, RepairStrategy
from qcode.agent.repair.runners import runner_of
from qcode.agent.repair.trial import Trial
from qcode.agent.turn import ToolLoop, TurnContext, TurnOutcome, TurnStrategy
from qcode.protocol.backends import ModelInfo
from qcode.protocol.errors import TaskNotDone

FIRST_RUN_LIMIT_S = 120.0


def repair_strategy(
    prompt: str,
    *,
    model: ModelInfo,
    root: Path,
    verify: str | None = None,
    budget: RepairBudget | None = None,
) -> TurnStrategy | None:
    """None where the prompt asks for something else than a repair."""
    goal = find_goal(prompt, verify=verify)
    if goal is None:
        return None
    if model.strength == "small":
        return RepairStrategy(root=root, goal=goal, verify=verify, budget=budget)
    return FailureFirst(root=root, goal=goal)


class FailureFirst:
    """The tool loop, opened with what fails: a strong model would run the same command first, and
    is spared that step. It leads from there on."""

    def __init__(self, *, root: Path, goal: RepairGoal) -> None:
        self._project = ProjectFiles(root)
        self._goal = goal

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        command = self._goal.command
        if command is None:
            runners = await asyncio.to_thread(discover_runners, self._project)
            runner = runners[0] if runners else None
        else:
            runner = runner_of(command)
        if runner is not None:
            paths = await asyncio.to_thread(self._project.paths)
            only = runner.named(self._goal.test, paths) if self._goal.test else runner.suite
            # Where it is not allowed, the model reads the refusal and leads on without it.
            with contextlib.suppress(TaskNotDone):
                await Trial(turn, self._project).run(only, timeout_s=FIRST_RUN_LIMIT_S)
        return await ToolLoop().run(prompt, turn)
