"""Running commands and trying changes through the turn's own tools, with a way back."""

from __future__ import annotations

import json
import math
import secrets
import time

from qcode.agent.answer import HARNESS
from qcode.agent.permission_gate import DENIED
from qcode.agent.repair.answers import Proposal
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.tried_files import TriedFiles
from qcode.agent.turn import TurnContext
from qcode.agent.turn_work import SHELL_TOOL
from qcode.protocol.errors import TaskNotDone
from qcode.protocol.events import Notice
from qcode.protocol.messages import AssistantMessage, ToolCall
from qcode.protocol.tools import ToolResult
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """`exit_code` is None where the command ran past its time limit."""

    exit_code: int | None
    output: str
    duration_s: float

    @property
    def passed(self) -> bool:
        return self.exit_code == 0


class Trial:
    """What was changed since the last `keep` can be put back at any moment, without awaiting. The
    session is told of it, so that it can be run again."""

    def __init__(
        self, turn: TurnContext, project: ProjectFiles, *, typed_command: str | None = None
    ) -> None:
        """`typed_command` is one that the person gave to be run, and is not asked about; nor is
        a choice among its tests."""
        self._turn = turn
        self._project = project
        self._typed_command = typed_command
        self._files = TriedFiles(lambda text: turn.emit(Notice(text=text, level="warning")))

    async def run(self, command: str, *, timeout_s: float) -> CommandRun:
        """Raises `TaskNotDone` where the command was not allowed."""
        started = time.monotonic()
        result = await self._call(
            SHELL_TOOL,
            {"command": command, "timeout": math.ceil(timeout_s)},
            user_typed=self._is_typed(command),
        )
        duration_s = time.monotonic() - started
        timed_out = result.is_error and result.content.startswith("stopped after")
        if result.is_error and not timed_out:
            raise TaskNotDone(
                f"`{command}` was not run: {_first_line(result)}",
                hint="Allow the command when asked, or with --allow or --yolo.",
            )
        return CommandRun(
            exit_code=None if timed_out else result.exit_code,
            output=result.content,
            duration_s=duration_s,
        )

    async def apply(self, proposal: Proposal) -> None:
        """Changes one file. Raises `TaskNotDone` where the change was not allowed."""
        path = self._project.root / proposal.path
        await self._call("read_file", {"file_path": str(path)})
        await self._files.begin(path)
        result = await self._call(
            "edit",
            {"file_path": str(path), "old_string": proposal.old, "new_string": proposal.new},
        )
        self._files.end(path)
        if result.is_error:
            allow = "Allow the edit when asked, or with --approval-mode auto-edit or --yolo."
            raise TaskNotDone(
                f"{proposal.path} was not changed: {_first_line(result)}",
                hint=allow if result.content.startswith(DENIED) else "",
            )

    def restore(self) -> None:
        """Puts back what was changed since the last `keep`."""
        if self._files.restore():
            self._turn.session.end_trial(kept=False)

    def keep(self) -> None:
        """What was changed so far stays."""
        if self._files.keep():
            self._turn.session.end_trial(kept=True)

    def _is_typed(self, command: str) -> bool:
        """The selection of a test comes from the test's output, so it must not lead elsewhere."""
        typed = self._typed_command
        if typed is None or not command.startswith(typed):
            return False
        selection = command.removeprefix(typed)
        outside = ".." in selection or selection.startswith((" /", " '/", " ~"))
        return not selection or (selection.startswith(" ") and not outside)

    async def _call(
        self, name: str, arguments: dict[str, object], *, user_typed: bool = False
    ) -> ToolResult:
        call = ToolCall(
            id=f"repair_{secrets.token_hex(4)}", name=name, arguments=json.dumps(arguments)
        )
        message = AssistantMessage(blocks=(call,), stop_reason="tool_calls", model=HARNESS)
        self._turn.add(message)
        (result,) = await self._turn.run_calls(message, user_typed=user_typed)
        return result


def _first_line(result: ToolResult) -> str:
    return next(iter(result.content.strip().splitlines()), "it was refused")
