"""What a turn has done to the files, and which commands have run since."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

from qcode.protocol.messages import ToolCall
from qcode.protocol.tools import ToolResult
from qcode.protocol.values import dataclass

SHELL_TOOL = "run_shell_command"

# A pipe hides the exit code of what stands before it, and a list that of all but its last.
_SEVERAL_COMMANDS = re.compile(r"[|;&\n`]|\$\(")
_ONLY_LOOKS = re.compile(
    r"(?:ls|cat|head|tail|wc|grep|rg|find|pwd|echo|git (?:diff|status|log|show|blame))(?:\s|$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRun:
    """One command that ran by itself to its end, so that its exit code is its own."""

    command: str
    exit_code: int


class TurnWork:
    """Filled by the turn; read by what decides whether the work is done. `has_run_commands` counts
    those that may have changed files, unlike `git diff`."""

    def __init__(self) -> None:
        self.has_changed_files = False
        self.has_run_commands = False
        self.began_s = time.time()  # of the clock that files are stamped by
        self._runs: list[PlainRun] = []

    @property
    def runs_since_change(self) -> tuple[PlainRun, ...]:
        """The newest last. A command that may itself have changed files ends what came before."""
        return tuple(self._runs)

    def record(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> None:
        for call, result in zip(calls, results, strict=True):
            if result.changed_files:
                self.has_changed_files = True
                self._runs.clear()
            if call.name == SHELL_TOOL and result.exit_code is not None:
                self._record_command(_command(call), result)

    def _record_command(self, command: str, result: ToolResult) -> None:
        plain = not _SEVERAL_COMMANDS.search(command)
        if plain and _ONLY_LOOKS.match(command):
            return
        self.has_run_commands = True
        if not plain:
            self._runs.clear()
        elif not result.is_error and result.exit_code is not None:
            self._runs.append(PlainRun(command=command, exit_code=result.exit_code))


def _command(call: ToolCall) -> str:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return ""
    command = arguments.get("command") if isinstance(arguments, dict) else None
    return command.strip() if isinstance(command, str) else ""
