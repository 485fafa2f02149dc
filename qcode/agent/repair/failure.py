"""What a test run said: which tests failed, and the essential text of each failure."""

from __future__ import annotations

import re

from qcode.protocol.values import dataclass

MAX_TEXT = 600  # characters of one failure that the model is shown

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One line of a traceback: the path as printed, the line, the function where it is known."""

    path: str
    line: int
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failing test. `test` is the identifier that its runner prints, `function` the name of
    the test function, `text` at most `MAX_TEXT` characters, `frames` outermost first."""

    test: str
    function: str
    text: str
    exception: str = ""
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TestReport:
    """`failing` names every failing test, also those whose details were not printed."""

    __test__ = False  # not a test class, whatever its name begins with

    failures: tuple[Failure, ...]
    failing: frozenset[str]

    @property
    def first(self) -> Failure | None:
        return self.failures[0] if self.failures else None


def plain(output: str) -> str:
    return _ANSI.sub("", output).replace("\r\n", "\n")


def shorten(lines: list[str], limit: int = MAX_TEXT) -> str:
    """The lines joined, blank ones dropped; where they are too long the middle goes, because the
    exception stands at an end."""
    kept = [line[:200].rstrip() for line in lines if line.strip()]
    text = "\n".join(kept)
    if len(text) <= limit:
        return text
    head: list[str] = []
    tail: list[str] = []
    room = limit - len("...\n")
    while kept:
        side, line = (tail, kept[-1]) if len(tail) <= len(head) else (head, kept[0])
        if len(line) + 1 > room:
            break
        room -= len(line) + 1
        side.append(line)
        kept.remove(line)
    return "\n".join([*head, "...", *reversed(tail)])
