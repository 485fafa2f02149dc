"""Which lines of an answer stand in a code fence."""

from __future__ import annotations

import re

_OPENING = re.compile(r"[ \t]*(`{3,}|~{3,})([^\n]*)$")
_MAX_LINE = 256  # what of a line is looked at


class Fences:
    """Follows a text line by line. `open` holds for the line that is being written: a fence's own
    first line is not in it, its last line is."""

    def __init__(self) -> None:
        self._line = ""
        self._fence = ""

    @property
    def open(self) -> bool:
        return bool(self._fence)

    def feed(self, text: str) -> None:
        *ended, line = text.split("\n")
        for part in ended:
            self._end_line((self._line + part)[:_MAX_LINE])
            self._line = ""
        self._line = (self._line + line)[:_MAX_LINE]

    def _end_line(self, line: str) -> None:
        if self._fence:
            written = line.strip()
            if written.startswith(self._fence) and not written.strip(self._fence[0]):
                self._fence = ""
        elif (opening := _OPENING.match(line)) and "`" not in opening[2]:
            self._fence = opening[1]
