"""One call in Qwen3-Coder's tags. The format is not XML: values are raw text, escaped by nothing.

A value may itself hold the markup, and models leave closing tags out, so where a value ends is
decided by what follows a closing tag. Until that has been read, the text is held back.
"""

from __future__ import annotations

import json
from typing import Literal

from qcode.engine.chat.arguments import OfferedTools, Parameters, coerce, dump
from qcode.engine.chat.tags import (
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    NO,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    PARTIAL,
    TOOL_CLOSE,
    TOOL_OPEN,
    Tag,
    match_name,
    match_tag,
    skip_space,
)

ReadStatus = Literal["more", "done", "rejected"]
_MAX_GAP = 1024  # white space looked past before a closing tag counts as text
_Verdict = Literal["part", "end", "undecided"]


class XmlCall:
    """Reads what follows `<function=`. `name` is set once the call is certain to be one.

    `strict` says that the call was written under a grammar: then a value ends at the first
    `</parameter>` that begins a line, and nothing is looked for in it.
    """

    def __init__(self, tools: OfferedTools, *, wrapped: bool, strict: bool = False) -> None:
        self._tools = tools
        self._strict = strict
        self._wrapped = wrapped
        self._pieces: list[str] = []
        self._parameters = Parameters({})
        self._seen: set[str] = set()
        self._place: Literal["name", "body", "opening", "value"] = "name"
        self._value: _Value | None = None
        self._line_start = True
        self._clean = True  # only white space since the last tag of the body
        self._open_parameters = 0  # openers inside the value that wait for their closing tag
        self._open_functions = 0
        self.name: str | None = None
        self.complete_at_end = False

    def take(self) -> str:
        """The argument text settled since the last call."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def close(self) -> None:
        """Ends the arguments."""
        self._pieces.append("}" if self._seen else "{}")

    def read(self, text: str, *, final: bool) -> tuple[int, ReadStatus]:
        """How many characters of `text` are settled, and how the call stands after them."""
        at = 0
        while True:
            match self._place:
                case "name":
                    end, status = self._read_name(text, at)
                case "body":
                    end, status = self._read_body(text, at, final)
                case "opening":
                    end, status = self._read_opening(text, at, final)
                case "value":
                    end, status = self._read_value(text, at, final)
            if status != "on":
                return end, status
            at = end

    def _read_name(self, text: str, at: int) -> tuple[int, ReadStatus | Literal["on"]]:
        end, written = match_name(text, at)
        if end == PARTIAL:
            return at, "more"
        known = self._tools.find(written) if end != NO else None
        if end == NO or (known is None and not self._wrapped):
            return at, "rejected"
        self.name = known or written
        self._parameters = self._tools.parameters(self.name)
        self._place = "body"
        return end, "on"

    def _read_body(self, text: str, at: int, final: bool) -> tuple[int, ReadStatus | Literal["on"]]:
        """Between parameters: the next one, an end, or stray text, which is passed over."""
        while at < len(text) and text[at] != "<":
            self._clean = self._clean and text[at].isspace()
            at += 1
        if at == len(text):
            self.complete_at_end = final and self._clean
            return at, "more"
        if (end := match_tag(text, at, PARAMETER_OPEN)) > 0:
            return self._read_key(text, at, end)
        if (end := match_tag(text, at, FUNCTION_CLOSE)) > 0:
            self.close()
            return end, "done"
        if any(match_tag(text, at, tag) > 0 for tag in (TOOL_CLOSE, TOOL_OPEN, FUNCTION_OPEN)):
            self.close()
            return at, "done"
        closing = match_tag(text, at, FUNCTION_CLOSE), match_tag(text, at, TOOL_CLOSE)
        opening = [match_tag(text, at, tag) for tag in (PARAMETER_OPEN, TOOL_OPEN, FUNCTION_OPEN)]
        if PARTIAL in closing or PARTIAL in opening:
            self.complete_at_end = final and self._clean and PARTIAL in closing
            return at, "more"
        self._clean = False
        return at + 1, "on"

    def _read_key(self, text: str, at: int, name_at: int) -> tuple[int, ReadStatus | Literal["on"]]:
        end, key = match_name(text, name_at)
        if end == PARTIAL:
            return at, "more"
        if end == NO:
            return at + 1, "on"
        self._pieces.append(", " if self._seen else "{")
        self._seen.add(key)
        self._pieces.append(dump(key) + ": ")
        self._value = _Value(self._parameters.types(key))
        self._open_parameters = self._open_functions = 0
        self._line_start = True
        self._place = "opening"
        return end, "on"

    def _read_opening(
        self, text: str, at: int, final: bool
    ) -> tuple[int, ReadStatus | Literal["on"]]:
        """One newline after `<parameter=KEY>` belongs to the markup."""
        if at == len(text) and not final:
            return at, "more"
        self._place = "value"
        return at + text.startswith("\n", at), "on"

    def _read_value(
        self, text: str, start: int, final: bool
    ) -> tuple[int, ReadStatus | Literal["on"]]:
        assert self._value is not None
        at = start
        while (at := text.find("<", at)) >= 0:
            line_start = text[at - 1] == "\n" if at > start else self._line_start
            verdict, end = self._classify(text, at, line_start, final)
            if verdict == "part":
                at = end
                continue
            kept = at - 1 if at > start and text[at - 1] == "\n" else at
            self._write(text[start:kept])
            if verdict == "undecided":
                return kept, "more"
            self._pieces.append(self._value.finish())
            self._place, self._clean = "body", True
            return end, "on"
        kept = len(text) - (len(text) > start and text[-1] == "\n")
        self._write(text[start:kept])
        return kept, "more"

    def _write(self, text: str) -> None:
        assert self._value is not None
        if text:
            self._line_start = text[-1] == "\n"
            self._pieces.append(self._value.write(text))

    def _classify(self, text: str, at: int, line_start: bool, final: bool) -> tuple[_Verdict, int]:
        """Whether the `<` at `at` ends the value, and where to go on reading."""
        if self._strict:
            return _strict_close(text, at, line_start, final)
        end = match_tag(text, at, PARAMETER_CLOSE)
        if end > 0:
            return self._closing_tag(text, end, line_start, final)
        if end == PARTIAL and not final:
            return "undecided", at
        if not line_start:
            return "part", at + 1
        if (end := match_tag(text, at, PARAMETER_OPEN)) > 0:
            return self._inner_parameter(text, at, end, final)
        if (end := match_tag(text, at, FUNCTION_OPEN)) > 0:
            self._open_functions += 1
            return "part", end
        if (end := match_tag(text, at, FUNCTION_CLOSE)) > 0:
            return self._inner_function_close(text, at, end, final)
        if (end := match_tag(text, at, TOOL_CLOSE)) > 0:
            verdict = self._at_end(text, end, final)
            return verdict, end if verdict == "part" else at
        tags = (PARAMETER_OPEN, FUNCTION_OPEN, FUNCTION_CLOSE, TOOL_CLOSE)
        if not final and any(match_tag(text, at, tag) == PARTIAL for tag in tags):
            return "undecided", at
        return "part", at + 1

    def _closing_tag(
        self, text: str, end: int, line_start: bool, final: bool
    ) -> tuple[_Verdict, int]:
        if self._open_parameters:
            # It pairs with an opener inside the value, unless what follows closes more than the
            # value has opened, or closes the whole answer.
            verdict = self._all_closes(text, end, final)
            if verdict == "part" and not self._open_functions:
                verdict = self._followed_by(text, end, FUNCTION_CLOSE, final)
            if verdict == "part":
                self._open_parameters -= 1
            return verdict, end
        return self._after_closing_tag(text, end, line_start, final), end

    def _after_closing_tag(self, text: str, end: int, line_start: bool, final: bool) -> _Verdict:
        at = skip_space(text, end, _MAX_GAP)
        if at == NO:
            return "part"
        if at == len(text):
            return "end" if final else "undecided"
        if (opened := match_tag(text, at, PARAMETER_OPEN)) > 0:
            name_end, key = match_name(text, opened)
            if name_end == PARTIAL and not final:
                return "undecided"
            names = self._parameters.names
            canonical = line_start and text[end:at] == "\n"
            known = key in names or not names or canonical
            return "end" if name_end > 0 and known else "part"
        closing = [match_tag(text, at, tag) for tag in (FUNCTION_CLOSE, TOOL_CLOSE)]
        if max(closing) > 0:
            return "end"
        next_line = "\n" in text[end:at]
        calls = [match_tag(text, at, tag) for tag in (TOOL_OPEN, FUNCTION_OPEN)]
        if next_line and max(calls) > 0:
            return "end"
        if PARTIAL in closing:
            return "end" if final else "undecided"
        partial = PARTIAL in calls or match_tag(text, at, PARAMETER_OPEN) == PARTIAL
        return "undecided" if partial and not final else "part"

    def _inner_parameter(
        self, text: str, at: int, name_at: int, final: bool
    ) -> tuple[_Verdict, int]:
        """A parameter at a line's start inside a value: the next one, or part of a shown call."""
        end, key = match_name(text, name_at)
        if end == PARTIAL and not final:
            return "undecided", at
        if end < 0:
            return "part", name_at
        expected = key in self._parameters.names and key not in self._seen
        if expected and not self._open_parameters and not self._open_functions:
            return "end", at
        self._open_parameters += 1
        return "part", end

    def _inner_function_close(
        self, text: str, at: int, end: int, final: bool
    ) -> tuple[_Verdict, int]:
        if self._open_functions or self._open_parameters:
            verdict = self._all_closes(text, at, final)
            if verdict == "part":
                self._open_functions = max(0, self._open_functions - 1)
        else:
            verdict = self._followed_by(text, end, TOOL_CLOSE, final)
        return verdict, end if verdict == "part" else at

    def _followed_by(self, text: str, end: int, tag: Tag, final: bool) -> _Verdict:
        at = skip_space(text, end, _MAX_GAP)
        if at == NO:
            return "part"
        if at == len(text):
            return "end" if final else "undecided"
        found = match_tag(text, at, tag)
        if found == PARTIAL:
            return "end" if final else "undecided"
        return "end" if found > 0 else "part"

    def _all_closes(self, text: str, at: int, final: bool) -> _Verdict:
        """Whether only closing tags of the call follow, and then the end of the answer."""
        for tag in (FUNCTION_CLOSE, TOOL_CLOSE):
            at = skip_space(text, at, _MAX_GAP)
            if at == NO:
                return "part"
            found = match_tag(text, at, tag)
            if found == PARTIAL:
                return "end" if final else "undecided"
            if found == NO:
                return "part"
            at = found
        return self._at_end(text, at, final)

    def _at_end(self, text: str, at: int, final: bool) -> _Verdict:
        at = skip_space(text, at, _MAX_GAP)
        if at != len(text):
            return "part"
        return "end" if final else "undecided"


def _strict_close(text: str, at: int, line_start: bool, final: bool) -> tuple[_Verdict, int]:
    tag = "".join(PARAMETER_CLOSE)
    if not line_start or not tag.startswith(text[at : at + len(tag)]):
        return "part", at + 1
    if len(text) - at >= len(tag):
        return "end", at + len(tag)
    return ("part", at + 1) if final else ("undecided", at)


class _Value:
    """Writes one value as JSON: a string as it comes, anything else when it is whole."""

    def __init__(self, types: frozenset[str]) -> None:
        self._types = types
        self._streams = types <= {"string"}
        self._begun = False
        self._held: list[str] = []

    def write(self, text: str) -> str:
        if not self._streams:
            self._held.append(text)
            return ""
        opening = "" if self._begun else '"'
        self._begun = True
        return opening + json.dumps(text, ensure_ascii=False)[1:-1]

    def finish(self) -> str:
        if self._streams:
            return '"' if self._begun else '""'
        return dump(coerce("".join(self._held), self._types))
