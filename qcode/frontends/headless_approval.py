"""The Approvers of `qcode run`: one that refuses and names the rule to allow, one that asks on the
terminal."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from qcode.agent.permissions import suggested_rule
from qcode.agent.safe_commands import is_safe
from qcode.protocol.permissions import (
    Access,
    Answer,
    DiffDisplay,
    Display,
    PermissionRequest,
    ShellAnalysis,
)
from qcode.sandbox.terminal_text import printable

_PREVIEW_LINES = 60
_GUARD_S = 0.3
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPACES = re.compile(r" {41,}")


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


class TerminalApprover:
    """Asks with one line on the terminal. `stdin` is the terminal's file descriptor."""

    def __init__(self, tell: Callable[[str], None], *, stdin: int) -> None:
        self._tell = tell
        self._stdin = stdin

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        self._tell(question(request, reason))
        # What was typed before the question could be read is no answer to it.
        await asyncio.sleep(_GUARD_S)
        termios.tcflush(self._stdin, termios.TCIFLUSH)
        self._tell("allow? y once, s for this session, Enter or n for no:")
        match (await read_line(self._stdin)).strip().lower():
            case "y" | "yes":
                return Answer(allowed=True)
            case "s":
                return Answer(allowed=True, scope="session")
            case _:
                return Answer(allowed=False)


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


def exact(text: str) -> str:
    """Every control character made visible, and runs of spaces that could push text off screen."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
    text = _SPACES.sub(lambda match: f" [{len(match.group())} spaces] ", text)
    return printable(text, max_line=sys.maxsize)


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
