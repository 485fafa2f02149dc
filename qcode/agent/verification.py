"""Verified completion: a turn is done only when a command the person named succeeds."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace

from qcode.agent.answer import HARNESS
from qcode.agent.resampling import Resampling
from qcode.agent.turn import ToolLoop, TurnContext, TurnOutcome, TurnStrategy
from qcode.agent.turn_work import SHELL_TOOL
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.events import CompletionCheck
from qcode.protocol.messages import AssistantMessage, ToolCall, UserMessage
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCommand:
    """`max_attempts` bounds how often the command is run, and so how often the model is sent back
    to work. `timeout_s` is the longest that the shell tool allows: whole suites are slow."""

    command: str
    max_attempts: int = 5
    timeout_s: int = 1800
    resample: bool = True


class Verified:
    """A strategy whose completion counts only after the command succeeded."""

    def __init__(self, strategy: TurnStrategy, verify: VerifyCommand) -> None:
        self._strategy = strategy
        self._verify = verify
        self._resampling = Resampling(enabled=verify.resample)
        self.exit_code: int | None = None

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        outcome = await self._strategy.run(prompt, turn)
        for attempt in range(1, self._verify.max_attempts + 1):
            if outcome.verify_exit_code == 0:  # it was the last thing the strategy ran
                self.exit_code = 0
                break
            self.exit_code = await self._check(turn)
            if self.exit_code == 0 or outcome.reason != "completed":
                break
            if attempt < self._verify.max_attempts:
                outcome = await ToolLoop().run(prompt, turn)
        return self._judged(outcome)

    def _judged(self, outcome: TurnOutcome) -> TurnOutcome:
        """The command decides, whatever the strategy thought of its work."""
        if self.exit_code == 0:
            outcome = replace(outcome, reason="completed", error=None)
        elif outcome.reason == "completed":
            error = TaskNotDone(
                f"`{self._verify.command}` still fails (exit code {self.exit_code})."
            )
            outcome = replace(outcome, reason="failed", error=error)
        return replace(outcome, verify_exit_code=self.exit_code, check=self.check)

    @property
    def check(self) -> CompletionCheck | None:
        if self.exit_code is None:
            return None
        return CompletionCheck(
            kind="verify", command=self._verify.command, exit_code=self.exit_code
        )

    async def _check(self, turn: TurnContext) -> int:
        """Runs the command in view of the model, which reads the output as a tool result. Raises
        `TaskNotDone` where it could not be run at all."""
        turn.add(
            UserMessage(
                content="Now the work is checked with the command below. If it fails, mend the "
                "cause, then finish again."
            )
        )
        call = ToolCall(
            id=f"verify_{secrets.token_hex(4)}",
            name=SHELL_TOOL,
            arguments=json.dumps(
                {"command": self._verify.command, "timeout": self._verify.timeout_s}
            ),
        )
        message = AssistantMessage(blocks=(call,), stop_reason="tool_calls", model=HARNESS)
        turn.add(message)
        (result,) = await turn.run_calls(message, user_typed=True)
        if result.exit_code is None:
            raise TaskNotDone(
                f"`{self._verify.command}` could not be run to check the work: {result.content}"
            )
        if result.exit_code != 0:
            self._resampling.after_failure(result.content, turn)
        return result.exit_code
