"""The text of a server's answer, in which thinking and calls may have been left.

A call in the text counts only where the model speaks itself. What stands in a code block, in a
block quotation or in a code span is shown to the reader: a file the model quotes must not be able
to make calls. Such text passes the parser with its opening characters replaced, and gets them back
behind it, so that one parser keeps everything in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from qcode.engine.chat.answer import AnswerParser
from qcode.protocol.chunks import Delta, TextDelta, ToolCallDelta
from qcode.protocol.messages import Block, ToolCall
from qcode.protocol.tools import ToolSpec

_OPENERS = "<{[`"
# Noncharacters: no text holds them, and they stand for nothing to the parser.
_STAND_INS = "\ufdd0\ufdd1\ufdd2\ufdd3"
_HIDE = str.maketrans(_OPENERS, _STAND_INS)
_SHOW = str.maketrans(_STAND_INS, _OPENERS)
_FOREIGN = str.maketrans(dict.fromkeys(_STAND_INS, "\ufffd"))
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MARGIN = re.compile(r" {0,3}(?:(?P<marks>`+|~+)|(?P<quote>>))?")
_INLINE = re.compile(r"`+|[^`<]+|<")
_MIN_FENCE = 3
_QUOTES = frozenset("\"'“‘«")


class ServerText:
    """Feeds an `AnswerParser`, whose contract it keeps. `fenced_calls` takes calls in code blocks
    for calls after all: some models make theirs so."""

    def __init__(self, tools: Sequence[ToolSpec], *, fenced_calls: bool = False) -> None:
        self._parser = AnswerParser(tools)
        self._guards = bool(tools) and not fenced_calls
        self._held = ""  # not passed on, because what comes next decides what it is
        self._line: Literal["new", "plain", "hidden", "fence"] = "new"
        self._fence = ""  # the marks that opened the code block we are in
        self._span = ""  # the marks that opened the code span we are in
        self._last = ""  # the last character passed on

    def feed(self, text: str) -> list[Delta]:
        if not self._guards:
            return self._parser.feed(text)
        deltas: list[Delta] = []
        for line in _LINE.findall(text.translate(_FOREIGN)):
            self._read(line, deltas, final=False)
        return deltas

    def finish(self, *, truncated: bool) -> tuple[list[Delta], tuple[Block, ...]]:
        """The last deltas, and the blocks."""
        deltas: list[Delta] = []
        self._read("", deltas, final=True)
        last = self._parser.flush(truncated=truncated)
        blocks = self._parser.finish(truncated=truncated)
        if not self._guards:
            return last, blocks
        return deltas + [_shown(delta) for delta in last], tuple(map(_shown_block, blocks))

    def _read(self, text: str, deltas: list[Delta], *, final: bool) -> None:
        """One line, or a piece of one."""
        text, self._held = self._held + text, ""
        if not text:
            return
        if self._line == "new":
            if not self._parser.in_prose:
                self._line = "plain"
            elif not self._judge(text, final):
                self._held = text
                return
        elif self._line == "fence" and "`" in text and self._fence.startswith("`"):
            self._fence = ""  # a code span after all, with marks as long as a block's
        if self._line in ("hidden", "fence"):
            self._pass_on(text.translate(_HIDE), deltas)
        elif "`" in text or "<" in text or self._span:
            self._read_marks(text, deltas, final)
        else:
            self._pass_on(text, deltas)
        if text.endswith("\n"):
            self._line = "new"
            self._span = ""

    def _judge(self, line: str, final: bool) -> bool:
        """What kind of line begins so; False while that is open."""
        margin = _MARGIN.match(line)
        assert margin is not None
        marks = margin["marks"] or ""
        after = line[margin.end() :]
        if not (after or final or margin["quote"]):
            return False
        is_fence = len(marks) >= _MIN_FENCE
        if self._fence:
            self._line = "hidden"
            if marks.startswith(self._fence) and not after[:1].strip():
                self._fence = ""
        elif is_fence:
            self._line, self._fence = "fence", "" if "`" in after and marks[0] == "`" else marks
        else:
            self._line = "hidden" if margin["quote"] else "plain"
        return True

    def _read_marks(self, text: str, deltas: list[Delta], final: bool) -> None:
        """Code spans, and tags right after a quotation mark. What is read decides how the rest of
        the line is: a call may begin in it."""
        marks = _INLINE.findall(text)
        if marks[-1][0] == "`" and not final:
            self._held = marks.pop()  # it may grow
        for mark in marks:
            if not self._parser.in_prose:
                self._pass_on(mark, deltas)
                continue
            if mark[0] == "`":
                ends = self._span in ("", mark)
                self._span = ("" if self._span else mark) if ends else self._span
                hidden = True
            else:
                hidden = bool(self._span) or (mark == "<" and self._last in _QUOTES)
            self._pass_on(mark.translate(_HIDE) if hidden else mark, deltas)

    def _pass_on(self, text: str, deltas: list[Delta]) -> None:
        self._last = text[-1]
        deltas += map(_shown, self._parser.feed(text))


def _shown(delta: Delta) -> Delta:
    if isinstance(delta, TextDelta) and delta.text.isascii():
        return delta
    if isinstance(delta, ToolCallDelta):
        return replace(delta, arguments=delta.arguments.translate(_SHOW))
    return replace(delta, text=delta.text.translate(_SHOW))


def _shown_block(block: Block) -> Block:
    if isinstance(block, ToolCall):
        return replace(block, arguments=block.arguments.translate(_SHOW))
    return replace(block, text=block.text.translate(_SHOW))
