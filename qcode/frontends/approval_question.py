"""What every question to a person at a terminal has in common: what is shown, and what counts as an
answer."""

from __future__ import annotations

import re
import sys
import termios

from qcode.protocol.permissions import Answer
from qcode.sandbox.terminal_text import printable

# Keys pressed before the question could be read must not answer it.
GUARD_S = 0.3
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPACES = re.compile(r" {41,}")


def choices(*, has_rule: bool) -> str:
    """The line that asks. Without a rule that could cover it, there is no answer for a session."""
    session = ", s for this session" if has_rule else ""
    return f"Allow? y once{session}, Enter or n no, or say what to do instead: "


def read_answer(line: str, *, has_rule: bool = True) -> Answer:
    """What a typed line means. An empty one is a no; what is none of the choices is a no with that
    feedback."""
    word = line.strip().lower()
    if word in ("y", "yes"):
        return Answer(allowed=True)
    if word in ("s", "session") and has_rule:
        return Answer(allowed=True, scope="session")
    note = "" if word in ("", "n", "no") else line.strip()
    return Answer(allowed=False, note=note)


def drop_typed_ahead(terminal: int) -> None:
    """Drops what was typed but not read yet. `terminal` is its file descriptor."""
    termios.tcflush(terminal, termios.TCIFLUSH)


def exact(text: str) -> str:
    """Every control character made visible, and runs of spaces that could push text off screen."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
    text = _SPACES.sub(lambda match: f" [{len(match.group())} spaces] ", text)
    return printable(text, max_line=sys.maxsize)
