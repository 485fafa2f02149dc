"""The repair strategy: the harness runs the tests, shows the failure, and lets the tests judge
the changes that the model proposes.

A small model cannot find its way with free tool calls; it can often write one function right when
it sees the failure and the source. What decides is the test, so a wrong answer costs seconds and
nothing else: it is undone before the next one is tried.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from qcode.agent.answer import HARNESS
from qcode.agent.repair.answers import Proposal, undone
from qcode.agent.repair.candidates import Candidate, CandidateSearch, Outcome
from qcode.agent.repair.discovery import discover_runners
from qcode.agent.repair.failure import Failure, TestReport
from qcode.agent.repair.goal import RepairGoal
from qcode.agent.repair.judge import Judge, Verdict, check_it_ran
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.prompt import RepairPrompt, build_prompt
from qcode.agent.repair.quick_fixes import quick_fixes
from qcode.agent.repair.runners import TestRunner, runner_of
from qcode.agent.repair.sources import Suspects, find_suspects
from qcode.agent.repair.trial import CommandRun, Trial
from qcode.agent.turn import TurnContext, TurnOutcome
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.events import Notice
from qcode.protocol.messages import AssistantMessage, TextBlock
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairBudget:
    """For one failure: changes that are tried, answers of the model (many change nothing), and
    seconds since its first answer."""

    max_candidates: int = 12
    max_answers: int = 40
    max_seconds: float = 120.0


class BudgetSpent(Exception):
    """The search for a fix ended without one."""


class RepairStrategy:
    """Leaves the tree as it was where nothing worked, also when cancelled."""

    def __init__(
        self,
        *,
        root: Path,
        goal: RepairGoal,
        verify: str | None = None,
        budget: RepairBudget | None = None,
    ) -> None:
        self._project = ProjectFiles(root)
        self._goal = goal
        self._verify = verify
        self._budget = budget or RepairBudget()

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        """Raises `TaskNotDone` where no test could be run or a step was not allowed."""
        trial = Trial(turn, self._project, typed_command=self._verify)
        try:
            return await _Repair(
                self._project, self._goal, self._verify, self._budget, turn, trial
            ).run()
        finally:
            trial.restore()


class _Repair:
    """One run of the strategy."""

    def __init__(
        self,
        project: ProjectFiles,
        goal: RepairGoal,
        verify: str | None,
        budget: RepairBudget,
        turn: TurnContext,
        trial: Trial,
    ) -> None:
        self._project = project
        self._goal = goal
        self._verify = verify
        self._budget = budget
        self._turn = turn
        self._trial = trial
        self._kept: list[Proposal] = []
        self._num_tried = 0

    async def run(self) -> TurnOutcome:
        runner, judge, run = await self._show_failure()
        if run.passed:
            return self._finish(f"`{judge.last_command}` passes already: nothing to fix.", judge)
        first = runner.report(run.output)
        report: TestReport | None = first
        unsolved: dict[str, Failure] = {}
        while report is not None and not self._is_what_was_asked(first, report):
            failure = next((item for item in report.failures if item.test not in unsolved), None)
            if failure is None:
                await self._take_back_what_touches(unsolved)
                return self._not_done(report if self._kept else first, judge)
            verdict = await self._repair(failure, judge)
            if verdict.fixed:
                report = verdict.remaining
            else:
                unsolved[failure.test] = failure
        return self._finish(self._success(report, judge), judge)

    def _is_what_was_asked(self, first: TestReport, now: TestReport) -> bool:
        """The test that the person named passes; what else failed before is not their question."""
        return (
            self._goal.test is not None
            and bool(self._kept)
            and first.failing.isdisjoint(now.failing)
        )

    async def _take_back_what_touches(self, unsolved: dict[str, Failure]) -> None:
        """Undoes a kept change in code that a failing test still runs through: it made one test
        pass and was probably wrong."""
        for failure in unsolved.values():
            suspects = await asyncio.to_thread(find_suspects, failure, self._project)
            reached = {(item.path, item.qualified) for item in suspects.ranked}
            for proposal in [p for p in self._kept if (p.path, p.target) in reached]:
                text = suspects.files[proposal.path]
                if text.count(proposal.new) == 1:
                    await self._trial.apply(undone(proposal, text))
                    self._trial.keep()
                    self._kept.remove(proposal)
                    self._say(f"Took back {_named(proposal)}: {failure.test} still fails.")

    async def _show_failure(self) -> tuple[TestRunner, Judge, CommandRun]:
        """Runs what fails, by the first runner that is installed."""
        if self._goal.command:
            runners: tuple[TestRunner, ...] = (runner_of(self._goal.command),)
        else:
            runners = await asyncio.to_thread(discover_runners, self._project)
        if not runners:
            raise TaskNotDone(
                "No tests were found in this directory.",
                hint="Name the command that fails in the prompt: make `COMMAND` pass.",
            )
        paths = await asyncio.to_thread(self._project.paths)
        for number, runner in enumerate(runners, start=1):
            judge = Judge(self._trial, runner)
            command = runner.named(self._goal.test, paths) if self._goal.test else runner.suite
            run = await judge.first_run(command)
            missing = "No module named pytest" in run.output
            if not missing or number == len(runners):
                break
        check_it_ran(run, command)
        return runner, judge, run

    async def _repair(self, failure: Failure, judge: Judge) -> Verdict:
        """Where no change repairs it the files are as they were."""
        suspects = await asyncio.to_thread(
            find_suspects, failure, self._project, include_tests=self._goal.edits_tests
        )
        if not suspects.files:
            self._say("No source file of this project takes part in the failure.", "warning")
            return Verdict(fixed=False)
        prompt = build_prompt(failure, suspects)
        self._announce(failure, prompt)
        candidates = self._candidates(failure, suspects, prompt)
        try:
            async with aclosing(candidates) as stream:
                async for candidate in stream:
                    self._num_tried += 1
                    await self._trial.apply(candidate.proposal)
                    verdict = await judge.verdict(failure, candidate.proposal)
                    if verdict.fixed:
                        self._trial.keep()
                        self._kept.append(candidate.proposal)
                        return verdict
                    self._trial.restore()
                    self._say(f"That was not it; {candidate.proposal.path} is as it was.")
        except BudgetSpent:
            self._say("The budget for this failure is used up.")
        return Verdict(fixed=False)

    async def _candidates(
        self,
        failure: Failure,
        suspects: Suspects,
        prompt: RepairPrompt,
    ) -> AsyncGenerator[Candidate, None]:
        """What the interpreter suggests, then what the model answers, within the budget."""
        for proposal in await asyncio.to_thread(quick_fixes, failure, suspects, self._project):
            yield Candidate(proposal=proposal, origin="message")
        clock = _Clock(self._budget)

        async def ask(request: ChatRequest) -> Completed:
            try:
                async with asyncio.timeout(clock.remaining_s()) as limit:
                    completed = await self._turn.draft(request)
            except TimeoutError:
                if limit.expired():
                    raise BudgetSpent from None
                raise
            clock.count()
            return completed

        def on_answer(origin: str, outcome: Outcome) -> None:
            if outcome != "candidate":
                self._say(f"Answer {clock.num_answers} ({origin}): {outcome}.")

        search = CandidateSearch(
            prompt=prompt,
            files=suspects.files,
            test_source=suspects.test.source,
            model=self._turn.backend.model,
            ask=ask,
            on_answer=on_answer,
            variation=_variation(self._turn.sampling),
        )
        num_candidates = 0
        async with aclosing(search.candidates()) as found:
            async for candidate in found:
                yield candidate
                num_candidates += 1
                if num_candidates >= self._budget.max_candidates:
                    raise BudgetSpent

    def _announce(self, failure: Failure, prompt: RepairPrompt) -> None:
        names = ", ".join(item.qualified for item in prompt.shown[:3]) or ", ".join(prompt.lines)
        self._say(
            f"{failure.test or 'The command'} fails; looking at {names}. At most "
            f"{self._budget.max_candidates} changes or {self._budget.max_seconds:.0f} s."
        )

    def _say(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        self._turn.emit(Notice(text=text, level=level))

    def _success(self, remaining: TestReport | None, judge: Judge) -> str:
        fixed = ", ".join(map(_named, self._kept))
        tried = f"{self._num_tried} tried change{'s' if self._num_tried != 1 else ''}"
        if remaining is None:
            return f"Fixed: {fixed}. `{judge.last_command}` passes now, after {tried}."
        others = ", ".join(sorted(remaining.failing)[:3])
        return f"Fixed: {fixed}, after {tried}. Failing before and still: {others}."

    def _finish(self, text: str, judge: Judge) -> TurnOutcome:
        self._turn.add(_closing(text))
        verified = 0 if self._verify is not None and judge.last_command == self._verify else None
        return TurnOutcome(reason="completed", text=text, verify_exit_code=verified)

    def _not_done(self, report: TestReport, judge: Judge) -> TurnOutcome:
        remaining = ", ".join(sorted(report.failing)[:3]) or f"`{judge.last_command}`"
        if self._kept:
            text = (
                f"Fixed: {', '.join(map(_named, self._kept))}. Still failing: {remaining}; "
                "for that no change was found, and nothing else was changed."
            )
        else:
            text = (
                f"No fix was found for {remaining}: {self._num_tried} changes were tried, none "
                "passed the tests. The files are as they were."
            )
        self._turn.add(_closing(text))
        hint = "A larger model can do more: name one with --model, or an endpoint with --base-url."
        return TurnOutcome(reason="failed", text=text, error=TaskNotDone(text, hint=hint))


class _Clock:
    """Counts answers, and seconds from the first one on: reading the prompt is not held against
    the search."""

    def __init__(self, budget: RepairBudget) -> None:
        self._budget = budget
        self.num_answers = 0
        self._first_answer: float | None = None

    def remaining_s(self) -> float | None:
        """Seconds for the next answer; None for the first. Raises `BudgetSpent`."""
        if self.num_answers >= self._budget.max_answers:
            raise BudgetSpent
        if self._first_answer is None:
            return None
        remaining = self._first_answer + self._budget.max_seconds - time.monotonic()
        if remaining <= 0:
            raise BudgetSpent
        return remaining

    def count(self) -> None:
        self.num_answers += 1
        if self._first_answer is None:
            self._first_answer = time.monotonic()


def _variation(sampling: SamplingParams) -> int | None:
    """Where sampling was asked for, as for all but the first of several attempts, the search goes
    a way of its own; else the most likely answer comes first."""
    if not sampling.temperature:
        return None
    return secrets.randbits(24) if sampling.seed is None else sampling.seed


def _named(proposal: Proposal) -> str:
    return f"{proposal.target} in {proposal.path}"


def _closing(text: str) -> AssistantMessage:
    return AssistantMessage(blocks=(TextBlock(text=text),), stop_reason="end", model=HARNESS)
