"""Where an answer has certainly begun a call without the token `<tool_call>`.

Models leave the tag out, or spell it in ordinary tokens. What counts is what the reader of answers
takes for a call, less what may as well be prose: a call opens at the start of a line outside code
fences and thinking, JSON only once it names an offered tool and its arguments are next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from qcode.engine.chat.fences import Fences

_OPENING = re.compile(
    r"""\n[ \t]*
    (?:<[ ]?tool_call[ ]?>\s{0,64})?
    (?: <[ ]?function[ ]?=
      | (?P<list>\[\s*,?\s*)?\{\s*"name"\s*:\s*"(?P<name>[^"\\\n]{1,128})"\s*,
        \s*"(?:arguments|parameters)" )""",
    re.VERBOSE,
)
_LAST_CHARACTERS = ("=", '"')
_MAX_OPENING = 512  # bytes from the line's start
_THINK, _THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOpening:
    """`written` is what stands of the call already, in the spelling of the templates: up to
    `<function=` or up to the key of the arguments, and whatever the last token wrote behind it."""

    form: Literal["json", "tags"]
    written: bytes


class OpeningWatch:
    """Follows the free text of one answer. `names` are the offered tools; `in_reasoning`: the
    prompt has opened the thinking already."""

    def __init__(self, names: Iterable[str], *, in_reasoning: bool = False) -> None:
        self._names = frozenset(_as_characters(name.encode()) for name in names)
        self._fences = Fences()
        self._recent = "\n"
        self._at_start = not in_reasoning
        self._in_reasoning = in_reasoning
        self._in_list = False

    def feed(self, piece: bytes) -> CallOpening | None:
        """The call that `piece` opens. What follows belongs to it, until `call_ended`."""
        text = _as_characters(piece)
        self._recent += text
        if self._in_reasoning or self._at_start:
            self._follow_reasoning()
        if self._in_reasoning:
            return None
        opening = None
        if not self._fences.open and any(character in text for character in _LAST_CHARACTERS):
            openings = map(self._opening, _OPENING.finditer(self._recent))
            opening = next(filter(None, openings), None)
        self._follow_fences(text)
        if opening is not None:
            self._recent = ""
        return opening

    def call_ended(self) -> None:
        """The call is written; the next may follow it at once, or in the same list."""
        self._recent = "\n[" if self._in_list else "\n"
        self._fences = Fences()

    def _opening(self, found: re.Match[str]) -> CallOpening | None:
        behind = self._recent[found.end() :].encode("latin-1")
        if found["name"] is None:
            self._in_list = False
            return CallOpening(form="tags", written=b"<function=" + behind)
        if found["name"] not in self._names:
            return None
        self._in_list = found["list"] is not None
        name = found["name"].encode("latin-1")
        return CallOpening(form="json", written=b'{"name": "' + name + b'", "arguments"' + behind)

    def _follow_fences(self, text: str) -> None:
        was_open = self._fences.open
        self._fences.feed(text)
        if self._fences.open:
            self._recent = ""  # whatever stands in a fence opens nothing
        elif was_open:
            self._recent = "\n" + text.rpartition("\n")[2]
        elif len(self._recent) > _MAX_OPENING:
            line = self._recent.find("\n", len(self._recent) - _MAX_OPENING)
            self._recent = self._recent[line:] if line >= 0 else self._recent[-_MAX_OPENING:]

    def _follow_reasoning(self) -> None:
        written = self._recent.lstrip()
        if self._at_start and not _THINK.startswith(written[: len(_THINK)]):
            self._at_start = False
        if self._at_start and written.startswith(_THINK):
            self._at_start, self._in_reasoning = False, True
        if not self._in_reasoning:
            return
        _, end, after = self._recent.partition(_THINK_END)
        if end:
            self._in_reasoning = False
            self._recent = "\n" + after.lstrip()
        else:
            self._recent = self._recent[-len(_THINK_END) :]


def _as_characters(text: bytes) -> str:
    """Each byte as one character: tokens may end within a letter."""
    return text.decode("latin-1")
