"""JSON as models write it, turned into JSON as it is defined, while it arrives.

Accepted beyond RFC 8259: Python's `True`, `False`, `None` and single-quoted strings, raw control
characters in strings, a backslash before a character that needs none, a comma before a closing
bracket, and objects in doubled braces. Everything else fails: a guess at what a damaged call
meant could overwrite a file.
"""

from __future__ import annotations

import re
from typing import Literal

_PLAIN = re.compile(r"[^\"'\\\x00-\x1f]+")
_WORD = re.compile(r"[A-Za-z0-9+\-.]+")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_HEX = re.compile(r"[0-9A-Fa-f]{0,4}")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_MAX_DEPTH = 64
_MAX_WORD = 400

_Place = Literal["value", "value or end", "key or end", "colon", "comma", "string", "word"]


class JsonStream:
    """One value. `out` grows by strict JSON in the layout of `json.dumps`, so that what was
    written so far is always the beginning of the whole."""

    def __init__(self) -> None:
        self._place: _Place = "value"
        self._containers: list[str] = []
        self._doubled: list[bool] = []
        self._quote = '"'
        self._string_is_key = False
        self._word = ""
        self._comma = False
        self._extra_brace = False
        self._out: list[str] = []
        self.first = ""
        self.done = False
        self.failed = False

    def take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def written(self) -> str:
        """What `take` would return."""
        return "".join(self._out)

    def read(self, text: str, at: int, *, final: bool) -> int:
        """Reads from `at` on; how far it came. Stops at the value's end and at a failure."""
        while at < len(text) and not (self.done or self.failed):
            if self._place == "string":
                moved = self._read_string(text, at, final)
            elif self._place == "word":
                moved = self._read_word(text, at)
            else:
                moved = self._read_mark(text, at)
            if moved == at and self._place == "string":
                break  # an escape that has not arrived whole
            at = moved
        if final and self._place == "word" and not (self.done or self.failed):
            self._end_word()
        return at

    def _read_mark(self, text: str, at: int) -> int:
        char = text[at]
        if char.isspace():
            return at + 1
        if self._extra_brace:
            self._extra_brace = False
            if char == "}":
                return at + 1
        match self._place:
            case "value" | "value or end":
                return self._begin_value(char, at)
            case "key or end":
                return self._begin_key(char, at)
            case "colon":
                self.failed = char != ":"
                if not self.failed:
                    self._out.append(": ")
                    self._place = "value"
            case _:
                self._after_value(char)
        return at if self.failed else at + 1

    def _begin_value(self, char: str, at: int) -> int:
        if char == "]" and self._place == "value or end":
            self._close(char)
            return at + 1
        if char in "{[":
            if len(self._containers) == _MAX_DEPTH:
                self.failed = True
                return at
            self._separate()
            self._containers.append(char)
            self._doubled.append(False)
            self._out.append(char)
            self._place = "key or end" if char == "{" else "value or end"
        elif char in "\"'":
            self._begin_string(char, is_key=False)
        elif _WORD.match(char):
            self._separate()
            self._place = "word"
            self._note_first(char)
            return at
        else:
            self.failed = True
            return at
        self._note_first(char)
        return at + 1

    def _begin_key(self, char: str, at: int) -> int:
        if char in "\"'":
            self._begin_string(char, is_key=True)
        elif char == "}":
            self._close(char)
        elif char == "{" and not self._doubled[-1] and not self._comma:
            self._doubled[-1] = True
        else:
            self.failed = True
            return at
        return at + 1

    def _after_value(self, char: str) -> None:
        opened = self._containers[-1]
        if char == ",":
            self._comma = True
            self._place = "key or end" if opened == "{" else "value or end"
        elif char == ("}" if opened == "{" else "]"):
            self._close(char)
        else:
            self.failed = True

    def _close(self, char: str) -> None:
        self._out.append(char)
        self._comma = False
        self._containers.pop()
        self._extra_brace = self._doubled.pop()
        self._end_value()

    def _end_value(self) -> None:
        self._place = "comma"
        self.done = not self._containers

    def _separate(self) -> None:
        if self._comma:
            self._out.append(", ")
            self._comma = False

    def _note_first(self, char: str) -> None:
        self.first = self.first or char

    def _begin_string(self, quote: str, *, is_key: bool) -> None:
        self._separate()
        self._quote = quote
        self._string_is_key = is_key
        self._out.append('"')
        self._place = "string"

    def _read_string(self, text: str, at: int, final: bool) -> int:
        if plain := _PLAIN.match(text, at):
            self._out.append(plain.group())
            return plain.end()
        char = text[at]
        if char == "\\":
            return self._read_escape(text, at, final)
        if char == self._quote:
            self._out.append('"')
            if self._string_is_key:
                self._place = "colon"
            else:
                self._end_value()
        elif char == '"':
            self._out.append('\\"')
        elif char == "'":
            self._out.append(char)
        else:
            self._out.append(
                {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\u{ord(char):04x}")
            )
        return at + 1

    def _read_escape(self, text: str, at: int, final: bool) -> int:
        escaped = text[at + 1 : at + 2]
        if not escaped:
            return at
        if escaped == "u":
            digits = _HEX.match(text, at + 2)
            end = digits.end() if digits else at + 2
            if end == len(text) and end < at + 6 and not final:
                return at
            if end == at + 6:
                self._out.append(text[at:end])
                return end
            self._out.append("\\\\u")
            return at + 2
        if escaped in '"\\/bfnrt':
            self._out.append("\\" + escaped)
            return at + 2
        if escaped == "'":
            self._out.append("'")
            return at + 2
        self._out.append("\\\\")  # the character itself is read next, as any other
        return at + 1

    def _read_word(self, text: str, at: int) -> int:
        found = _WORD.match(text, at)
        if found is None:
            self._end_word()
            return at
        self._word += found.group()
        self.failed = len(self._word) > _MAX_WORD
        return found.end()

    def _end_word(self) -> None:
        word = _WORDS.get(self._word, self._word)
        self._word = ""
        if word in ("true", "false", "null") or _NUMBER.fullmatch(word):
            self._out.append(word)
            self._end_value()
        else:
            self.failed = True
