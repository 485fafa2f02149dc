"""The command that tests a project, as a prompt names it or the project shows it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from qcode.agent.repair.discovery import discover_runners
from qcode.agent.repair.goal import RepairGoal
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.runners import TestRunner, runner_of
from qcode.agent.turn_work import PlainRun
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCommand:
    """`named`: the prompt itself asked for this to pass."""

    __test__ = False  # not a test class, whatever its name begins with

    line: str
    runner: TestRunner
    named: bool
    test: str | None = None

    def is_run_by(self, run: PlainRun) -> bool:
        """Has the model run the same, or more of it?"""
        if run.command == self.line:
            return True
        if self.runner.kind == "other":
            return run.command.startswith(f"{self.runner.suite} ")
        other = runner_of(run.command)
        if other.kind != self.runner.kind:
            return False
        return not self.named or other.selects or (self.test or "\0") in run.command


def find_test_command(root: Path, goal: RepairGoal | None) -> TestCommand | None:
    """None where the prompt names nothing and the project has no evident tests. Blocks."""
    if goal is not None and goal.command is not None:
        return TestCommand(line=goal.command, runner=runner_of(goal.command), named=True)
    project = ProjectFiles(root)
    runner = next(iter(discover_runners(project)), None)
    if runner is None:
        return None
    if goal is None or goal.test is None:
        return TestCommand(line=runner.suite, runner=runner, named=False)
    line = runner.named(goal.test, project.paths())
    return TestCommand(line=line, runner=runner, named=True, test=goal.test)


def changed_since(root: Path, began_s: float) -> bool:
    """Has a command written to a source file? Blocks."""
    for path in ProjectFiles(root).paths():
        with contextlib.suppress(OSError):
            if (root / path).stat().st_mtime >= began_s:
                return True
    return False
