"""The Approvers of `qcode run`: one that refuses and names the rule to allow, one that asks on the
terminal."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from qcode.agent.permissions import suggested_rule
from qcode.agent.safe_commands import is_safe
from qcode.frontends.approval_question import (
    GUARD_S,
    choices,
    drop_typed_ahead,
    exact,
    read_answer,
)
from qcode.protocol.permissions import (
    Access,
    Answer,
    DiffDisplay,
    Display,
    PermissionRequest,
    ShellAnalysis,
)

_PREVIEW_LINES = 60


class RefusingApprover:
    """Nobody is there to ask: every question is a no, with the rule that would have allowed it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        rules = allowing_rules(request)
        self._tell(f"  not allowed: {request.title} ({reason})")
        if rules:
            flags = " ".join(f"--allow {_quoted(rule)}" for rule in rules)
            self._tell(f"  allow it with: qcode run {flags} ...")
        return Answer(allowed=False, note="There is no person to ask, so it was not allowed.")


class LineApprover:
    """Asks with one line on the terminal. `stdin` is the terminal's file descriptor."""

    def __init__(self, tell: Callable[[str], None], *, stdin: int) -> None:
        self._tell = tell
        self._stdin = stdin

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        self._tell(question(request, reason))
        # What was typed before the question could be read is no answer to it.
        await asyncio.sleep(GUARD_S)
        drop_typed_ahead(self._stdin)
        has_rule = suggested_rule(request) is not None
        self._tell(choices(has_rule=has_rule).rstrip())
        return read_answer(await read_line(self._stdin), has_rule=has_rule)


async def read_line(descriptor: int) -> str:
    """One line from a terminal, empty at its end. Cancelling stops the wait at once."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def readable() -> None:
        if not line.done():
            line.set_result(os.read(descriptor, 4096).decode("utf-8", "replace"))

    loop.add_reader(descriptor, readable)
    try:
        return await line
    finally:
        loop.remove_reader(descriptor)


def question(request: PermissionRequest, reason: str) -> str:
    """What a person must see to decide: nothing of the target hidden, cut or folded unmarked."""
    lines = [f"? {request.title}  ({reason})"]
    if request.access is Access.EXECUTE:
        lines.append(exact(request.target))
    if request.preview is not None:
        lines.append(_preview(request.preview))
    return "\n".join(lines)


def _preview(display: Display) -> str:
    if isinstance(display, DiffDisplay):
        lines = list(
            difflib.unified_diff(
                (display.old_text or "").splitlines(),
                display.new_text.splitlines(),
                fromfile=display.path if display.old_text is not None else "/dev/null",
                tofile=display.path,
                lineterm="",
            )
        )
    else:
        lines = display.text.splitlines()
    shown = [exact(line) for line in lines[:_PREVIEW_LINES]]
    if len(lines) > _PREVIEW_LINES:
        shown.append(f"[{len(lines) - _PREVIEW_LINES} more lines]")
    return "\n".join(shown)


def allowing_rules(request: PermissionRequest) -> tuple[str, ...]:
    """The rules that together would allow this request; none where no rule can or should."""
    if request.protected:
        return ()
    match request.access:
        case Access.EDIT if request.inside_workspace:
            return ("Edit",)
        case Access.EXECUTE if request.shell is not None and request.shell.opaque is None:
            singles = [
                replace(request, shell=ShellAnalysis(commands=(command,)))
                for command in request.shell.commands
            ]
            rules = [suggested_rule(single) for single in singles if not _only_reads(single)]
            known = [rule for rule in rules if rule is not None]
            return tuple(dict.fromkeys(known)) if len(known) == len(rules) else ()
        case Access.EDIT | Access.READ | Access.EXECUTE:
            rule = suggested_rule(request)
            return () if rule is None else (rule,)
        case Access.NETWORK:
            host = urlsplit(request.target).hostname
            return () if host is None else (f"WebFetch(domain:{host})",)


def _only_reads(request: PermissionRequest) -> bool:
    assert request.shell is not None
    return all(is_safe(command) for command in request.shell.commands)


def _quoted(rule: str) -> str:
    return "'" + rule.replace("'", "'\\''") + "'"
