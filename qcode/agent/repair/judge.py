"""Tests as the judge: the failing one first, then the whole suite."""

from __future__ import annotations

from qcode.agent.repair.answers import Proposal
from qcode.agent.repair.failure import Failure, TestReport
from qcode.agent.repair.runners import TestRunner
from qcode.agent.repair.trial import CommandRun, Trial
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.values import dataclass

FIRST_RUN_LIMIT_S = 300.0
LONGEST_TRIAL_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`fixed`: the failing test passes and nothing else broke. `remaining` is what failed before
    and still fails; None where everything passes."""

    fixed: bool
    remaining: TestReport | None = None


class Judge:
    """Knows what failed before anything was changed."""

    def __init__(self, trial: Trial, runner: TestRunner) -> None:
        self._trial = trial
        self._runner = runner
        self._known: frozenset[str] | None = None
        self._limit_s = FIRST_RUN_LIMIT_S
        self.last_command = ""
        self.num_runs = 0

    async def first_run(self, command: str) -> CommandRun:
        """The run that shows the failure. Candidates get a few times as long as it took: what
        takes longer is taken for an endless loop."""
        run = await self._run(command)
        self._limit_s = min(4 * run.duration_s + 5, LONGEST_TRIAL_S)
        if command == self._runner.suite and not run.passed:
            self._known = self._runner.report(run.output).failing
        return run

    async def verdict(self, failure: Failure, proposal: Proposal) -> Verdict:
        """Judges the proposal, which is in place."""
        focused = self._runner.only(failure.test)
        if focused != self._runner.suite and not (await self._run(focused)).passed:
            return Verdict(fixed=False)
        suite = await self._run(self._runner.suite)
        if suite.passed:
            return Verdict(fixed=True)
        after = self._runner.report(suite.output)
        if failure.test in after.failing or not after.failing:
            return Verdict(fixed=False)
        if self._known is None:
            self._known = await self._failing_without(proposal)
        if not after.failing <= self._known:
            return Verdict(fixed=False)
        return Verdict(fixed=True, remaining=after)

    async def _failing_without(self, proposal: Proposal) -> frozenset[str]:
        """What fails on the tree as it was; the proposal is in place again afterwards."""
        self._trial.restore()
        run = await self._run(self._runner.suite)
        await self._trial.apply(proposal)
        return frozenset() if run.passed else self._runner.report(run.output).failing

    async def _run(self, command: str) -> CommandRun:
        self.last_command = command
        self.num_runs += 1
        return await self._trial.run(command, timeout_s=self._limit_s)


def check_it_ran(run: CommandRun, command: str) -> None:
    """Raises `TaskNotDone` for a command that failed before any test ran."""
    text = run.output.lower()
    if run.exit_code in {126, 127} or "command not found" in text:
        raise TaskNotDone(
            f"The test command could not be started: `{command}`.",
            hint="Is it installed? Name another one in the prompt: make `COMMAND` pass.",
        )
    if "no module named pytest" in text:
        raise TaskNotDone(
            f"pytest is not installed for the Python that `{command.split()[0]}` starts.",
            hint="Install it into the project's environment: python -m pip install pytest",
        )
    if "no tests ran" in text or "ran 0 tests" in text or "no test files found" in text:
        raise TaskNotDone(
            f"`{command}` found no tests.",
            hint="Name the command that runs them in the prompt: make `COMMAND` pass.",
        )
