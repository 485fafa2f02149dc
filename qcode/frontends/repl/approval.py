"""The Approver that asks the person at the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from prompt_toolkit import PromptSession
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output
from rich.console import Console
from rich.text import Text

from qcode.frontends.approval_question import (
    GUARD_S,
    choices,
    drop_typed_ahead,
    exact,
    read_answer,
)
from qcode.frontends.repl.diff_view import render_diff
from qcode.protocol.permissions import Access, Answer, DiffDisplay, PermissionRequest
from qcode.sandbox.terminal_text import printable


class TerminalApprover:
    """Shows exactly what would run and why it is asked, then waits for a line.

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
            if sys.stdin.isatty():
                drop_typed_ahead(sys.stdin.fileno())
            try:
                line = await self._session.prompt_async(choices(has_rule=rule is not None))
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
