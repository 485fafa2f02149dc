"""Several attempts at one task, each in a copy of the project; the first that passes is kept.

The attempts run at the same time through one backend, so that the bundled engine works on them as
one batch and reads what their prompts share once. Each is led as any turn is, with a seed and a
temperature of its own, until the verify command succeeds in its folder or its budget ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qcode.agent.answer import HARNESS
from qcode.agent.attempt_folders import AttemptFolders
from qcode.agent.file_changes import ChangedMeanwhile, FileChange, apply_changes, as_patch
from qcode.agent.turn import TurnContext, TurnOutcome
from qcode.protocol.errors import QcodeError, TaskNotDone
from qcode.protocol.events import Notice, TurnFinished
from qcode.protocol.messages import AssistantMessage, TextBlock
from qcode.protocol.values import dataclass

if TYPE_CHECKING:
    from qcode.agent.agent import Agent

T = TypeVar("T")
AttemptAgent = Callable[[Path, int], "Agent"]
"""Makes the agent of the attempt in a folder, by its number from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    number: int
    folder: Path
    finished: TurnFinished

    @property
    def passed(self) -> bool:
        return self.finished.verify_exit_code == 0


class BestOf:
    """A strategy. Its outcome is completed only where a change that passed is in place; nothing
    of the copies is left, however it ends."""

    def __init__(
        self, *, root: Path, attempts: int, attempt_agent: AttemptAgent, patches: Path
    ) -> None:
        """`patches` is where a change is kept that could not be put in place."""
        self._root = root
        self._num_attempts = attempts
        self._attempt_agent = attempt_agent
        self._patches = patches

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        folders = await _in_thread(lambda: AttemptFolders(self._root))
        try:
            await _in_thread(folders.prepare)
            winner, lost = await self._race(prompt, turn, folders)
            if winner is None:
                return self._none(lost, turn)
            changes = await _in_thread(lambda: folders.changes(winner.folder))
            return await self._keep(winner, changes, folders.top, turn)
        finally:
            folders.remove()

    async def _race(
        self, prompt: str, turn: TurnContext, folders: AttemptFolders
    ) -> tuple[_Attempt | None, list[_Attempt]]:
        """The first attempt that passes, and those that ended before without passing."""
        turn.emit(Notice(text=f"{self._num_attempts} attempts begin, each in its own copy."))
        places = [await _in_thread(folders.create) for _ in range(self._num_attempts)]
        agents = [self._attempt_agent(place, number) for number, place in enumerate(places, 1)]
        tasks = [
            asyncio.create_task(_attempt(agent, prompt, number, folder))
            for number, (agent, folder) in enumerate(zip(agents, places, strict=True), start=1)
        ]
        winner: _Attempt | None = None
        lost: list[_Attempt] = []
        try:
            for ended in asyncio.as_completed(tasks):
                attempt = await ended
                turn.budget.usage += attempt.finished.usage
                turn.budget.num_steps += attempt.finished.num_steps
                if winner is None:
                    turn.emit(Notice(text=_told(attempt)))
                if winner is None and attempt.passed:
                    winner = attempt
                    for agent in agents:  # the others end soon, and say what they used
                        agent.cancel()
                else:
                    lost.append(attempt)
            return winner, lost
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(
        self, winner: _Attempt, changes: tuple[FileChange, ...], top: Path, turn: TurnContext
    ) -> TurnOutcome:
        try:
            await _in_thread(lambda: apply_changes(changes, top))
        except (ChangedMeanwhile, OSError) as error:
            patch = await _in_thread(lambda: self._save(changes))
            reason = error.message if isinstance(error, QcodeError) else str(error)
            raise TaskNotDone(
                f"Attempt {winner.number} passed, but was not put in place. {reason}",
                hint=f"The change is kept in {patch}: git apply --3way {patch}",
            ) from error
        names = ", ".join(change.path for change in changes) or "nothing"
        said = winner.finished.text.strip()
        text = f"Attempt {winner.number} of {self._num_attempts} passed; changed: {names}."
        text = f"{said}\n\n{text}" if said else text
        turn.work.has_changed_files = True
        turn.add(_closing(text))
        return TurnOutcome(reason="completed", text=text)

    def _save(self, changes: tuple[FileChange, ...]) -> Path:
        self._patches.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._patches / f"attempt-{secrets.token_hex(4)}.patch"
        path.write_text(as_patch(changes), encoding="utf-8")
        return path

    def _none(self, lost: list[_Attempt], turn: TurnContext) -> TurnOutcome:
        text = f"None of {self._num_attempts} attempts passed; the files are as they were."
        turn.add(_closing(text))
        return TurnOutcome(reason="failed", text=text, error=TaskNotDone(text))


async def _attempt(agent: Agent, prompt: str, number: int, folder: Path) -> _Attempt:
    finished = TurnFinished(reason="failed", error=QcodeError("It ended without a word."))
    async with aclosing(agent.run(prompt)) as events:
        async for event in events:
            if isinstance(event, TurnFinished):
                finished = event
    return _Attempt(number=number, folder=folder, finished=finished)


async def _in_thread(work: Callable[[], T]) -> T:
    """Cancelled only between two pieces of work: a half-made copy could not be taken away."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _told(attempt: _Attempt) -> str:
    finished = attempt.finished
    if attempt.passed:
        how = "passed"
    elif finished.check is not None and finished.check.exit_code is not None:
        how = f"still fails (exit code {finished.check.exit_code})"
    elif finished.error is not None:
        how = f"ended: {finished.error.message}"
    else:
        how = "ended without a change that passes"
    return f"Attempt {attempt.number} {how}, after {finished.num_steps} steps."


def _closing(text: str) -> AssistantMessage:
    return AssistantMessage(blocks=(TextBlock(text=text),), stop_reason="end", model=HARNESS)
