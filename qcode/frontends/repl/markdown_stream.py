"""Cuts streamed Markdown into blocks that are finished and the tail that may still change.

A finished block is printed once and never again, so an answer costs time linear in its length.
Blocks end at blank lines outside of code fences (CommonMark, section 3); a list or table is
split at its blank lines too, which renders the same.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAX_TAIL_LINES = 400


class MarkdownStream:
    """Fed pieces of text; gives back whole blocks as soon as nothing can change them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._partial = ""
        self._fence = ""
        self.fed = False

    @property
    def tail(self) -> str:
        """What has come since the last finished block."""
        return "".join(self._lines) + self._partial

    def feed(self, text: str) -> list[str]:
        """Takes a piece and returns the blocks it finished, in order."""
        self.fed = True
        blocks = []
        *whole, self._partial = (self._partial + text).split("\n")
        for line in whole:
            block = self._take_line(line + "\n")
            if block.strip():
                blocks.append(block)
        return blocks

    def finish(self) -> str:
        """The rest, once no more text comes."""
        rest = self.tail
        self._lines, self._partial, self._fence = [], "", ""
        return rest

    def _take_line(self, line: str) -> str:
        self._lines.append(line)
        fence = _FENCE.match(line)
        if self._fence:
            if fence and fence[1].startswith(self._fence) and not line[fence.end() :].strip():
                self._fence = ""
                return self._cut()
            return ""
        if fence:
            self._fence = fence[1]
            return ""
        if not line.strip() or len(self._lines) > _MAX_TAIL_LINES:
            return self._cut()
        return ""

    def _cut(self) -> str:
        block = "".join(self._lines)
        self._lines = []
        return block
