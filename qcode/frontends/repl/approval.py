"""The Approver that asks the person at the terminal."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections.abc import Callable
from contextlib import AbstractContextManager

from prompt_toolkit import PromptSession
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output
from rich.console import Console
from rich.text import Text

from qcode.frontends.headless_approval import exact
from qcode.frontends.repl.diff_view import render_diff
from qcode.protocol.permissions import Access, Answer, DiffDisplay, PermissionRequest
from qcode.sandbox.terminal_text import printable

# Keys pressed before the question could be read must not answer it.
GUARD_S = 0.3
QUESTION = "Allow? y once, s for this session, Enter or n no, or say what to do instead: "
_NO_RULE_QUESTION = "Allow? y once, Enter or n no, or say what to do instead: "


class TerminalApprover:
    """Shows exactly what would run and why it is asked, then waits for a line.

    An empty line is a no. Anything that is not one of the choices is a no with that feedback.
    `quiet` is entered around the question and keeps the rest of the screen still. `rule_for`
    gives the rule a session answer would add, None if none can cover it.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: Callable[[], AbstractContextManager[None]],
        rule_for: Callable[[PermissionRequest], str | None],
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._rule_for = rule_for
        self._session: PromptSession[str] = PromptSession(input=input, output=output)

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        rule = self._rule_for(request)
        with self._quiet():
            self._show(request, reason, rule)
            await asyncio.sleep(GUARD_S)
            flush_typed_ahead()
            try:
                line = await self._session.prompt_async(QUESTION if rule else _NO_RULE_QUESTION)
            except (EOFError, KeyboardInterrupt):
                return Answer(allowed=False, note="")
        return read_answer(line, has_rule=rule is not None)

    def _show(self, request: PermissionRequest, reason: str, rule: str | None) -> None:
        verb = {
            Access.EXECUTE: "run a command",
            Access.EDIT: "change a file",
            Access.READ: "read a file",
            Access.NETWORK: "use the network",
        }[request.access]
        self._console.print(Text(f"qcode wants to {verb}: {printable(reason)}", "yellow"))
        if isinstance(request.preview, DiffDisplay):
            self._console.print(render_diff(request.preview))
        else:
            shown = request.preview.text if request.preview else request.target
            self._console.print(Text(exact(shown), "bold"), soft_wrap=True)
        if rule:
            line = f"s allows: {printable(rule)}"
            self._console.print(Text(line, "dim"), soft_wrap=True)


def read_answer(line: str, *, has_rule: bool = True) -> Answer:
    """What a typed line means."""
    word = line.strip().lower()
    if word in ("y", "yes"):
        return Answer(allowed=True)
    if word in ("s", "session") and has_rule:
        return Answer(allowed=True, scope="session")
    note = "" if word in ("", "n", "no") else line.strip()
    return Answer(allowed=False, note=note)


def flush_typed_ahead() -> None:
    """Drops what was typed but not read yet."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
