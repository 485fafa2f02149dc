"""Work that changed files is not called done before the project's tests were run.

Used where the person named no command to verify with: the failing test or command of the prompt
is run, or what this project evidently runs its tests by. Permission rules apply as to every other
command, and what came of it is said, whatever it was.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.agent.answer import HARNESS
from qcode.agent.resampling import Resampling
from qcode.agent.turn import ToolLoop, TurnContext, TurnOutcome, TurnStrategy
from qcode.agent.turn_work import SHELL_TOOL
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.events import CompletionCheck
from qcode.protocol.messages import AssistantMessage, ToolCall, UserMessage
from qcode.protocol.tools import ToolResult

if TYPE_CHECKING:
    from qcode.agent.project_tests import TestCommand
    from qcode.agent.repair.goal import RepairGoal

TIME_LIMIT_S = 300
MAX_ATTEMPTS = 2
"""Runs of the tests: a project's suite may fail for reasons that are not this task's."""

_INTRODUCTION = (
    "Before this counts as done, the project's tests are run with the command below. If a failure "
    "comes from your change, mend it. If it does not, leave it and say so."
)


class Tested:
    """A strategy whose completion is followed by the tests, unless the model has just run them."""

    __test__ = False  # not a test class, whatever its name begins with

    def __init__(
        self,
        strategy: TurnStrategy,
        *,
        root: Path,
        goal: RepairGoal | None = None,
        resample: bool = True,
    ) -> None:
        self._strategy = strategy
        self._root = root
        self._goal = goal
        self._resampling = Resampling(enabled=resample)

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        outcome = await self._strategy.run(prompt, turn)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if outcome.reason != "completed" or SHELL_TOOL not in turn.tools:
                return outcome
            command = await self._command(turn)
            if command is None:
                return outcome
            check, may_be_mended = await self._check(command, turn)
            if not may_be_mended or attempt == MAX_ATTEMPTS:
                return _judged(outcome, check, command)
            outcome = await ToolLoop().run(prompt, turn)
        return outcome

    async def _command(self, turn: TurnContext) -> TestCommand | None:
        """Only where there is something to test: files were changed, or a test was to pass."""
        # late: few turns come to this
        from qcode.agent.project_tests import changed_since, find_test_command

        work = turn.work
        changed = work.has_changed_files or (
            work.has_run_commands
            and await asyncio.to_thread(changed_since, self._root, work.began_s)
        )
        if not changed and self._goal is None:
            return None
        command = await asyncio.to_thread(find_test_command, self._root, self._goal)
        return command if command is not None and (changed or command.named) else None

    async def _check(self, command: TestCommand, turn: TurnContext) -> tuple[CompletionCheck, bool]:
        """What came of it, and whether the model has something to mend that it has not seen."""
        for run in reversed(turn.work.runs_since_change):
            if command.is_run_by(run):
                return _check_of(run.command, run.exit_code), False
        turn.add(UserMessage(content=_INTRODUCTION))
        call = ToolCall(
            id=f"tests_{secrets.token_hex(4)}",
            name=SHELL_TOOL,
            arguments=json.dumps({"command": command.line, "timeout": TIME_LIMIT_S}),
        )
        message = AssistantMessage(blocks=(call,), stop_reason="tool_calls", model=HARNESS)
        turn.add(message)
        (result,) = await turn.run_calls(message)
        if result.exit_code is None:
            return _not_run(command.line, result), False
        if result.exit_code != 0:
            self._resampling.after_failure(result.content, turn)
        return _check_of(command.line, result.exit_code), result.exit_code != 0


def _check_of(command: str, exit_code: int) -> CompletionCheck:
    return CompletionCheck(kind="tests", command=command, exit_code=exit_code)


def _not_run(command: str, result: ToolResult) -> CompletionCheck:
    reason = next(iter(result.content.strip().splitlines()), "it was refused")
    return CompletionCheck(kind="tests", command=command, exit_code=None, reason=reason)


def _judged(outcome: TurnOutcome, check: CompletionCheck, command: TestCommand) -> TurnOutcome:
    """A test that the prompt asked for and that still fails means the task is not done."""
    if check.exit_code in (None, 0) or not command.named:
        return replace(outcome, check=check)
    return replace(outcome, check=check, reason="failed", error=TaskNotDone(check.sentence))
