"""Replace one piece of a text, or refuse. Pure.

Tried in order:

1. the exact text;
2. the same with CRLF and LF taken alike;
3. whole lines that differ only in spacing, the replacement then indented as the file is;
4. the same text with straight and typographic quotes and dashes taken alike.

A choice is never made among several matches. Only what `old` and `new` differ in is replaced, so
everything else keeps its characters, newlines included; what is put in takes the newlines of its
place.
"""

from __future__ import annotations

import re

from qcode.protocol.errors import ToolError
from qcode.protocol.values import dataclass
from qcode.tools.closest_regions import not_found
from qcode.tools.reindent import reindent
from qcode.tools.text_lines import newline_at, split_lines, with_newlines

SPACING_NOTE = (
    "old_string did not match exactly, only up to spacing; new_string was indented like the file. "
    "Check the result"
)
MARKS_NOTE = (
    "old_string did not match exactly, only up to typographic quotes and dashes; the file's own "
    "were kept around the change. Check the result"
)

_ALIKE = ("'‘’‚‛′", '"“”„‟″', "-‐‑‒–—―−")
_ALTERNATIVES = {mark: f"[{re.escape(marks)}]" for marks in _ALIKE for mark in marks}
_NEWLINE = r"(?:\r\n|(?<!\r)\n)"
_MAX_NAMED_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`first_line` and `last_line` are the changed lines of the new `text`, from 1 (of the first
    replacement, if there are several). `note` says how the match was not exact."""

    text: str
    first_line: int
    last_line: int
    replacements: int = 1
    note: str = ""


def replace_text(text: str, old: str, new: str, *, replace_all: bool = False) -> Edit:
    """Raises `ToolError`, worded for the model, if `old` is not there exactly once (or, with
    `replace_all`, at least once) or if nothing would change."""
    if old == new:
        raise ToolError("old_string and new_string are the same; nothing to change")
    if not old:
        raise ToolError("old_string is empty; give the text to replace")
    edit = _replace(text, old, new, replace_all=replace_all)
    if edit.text == text:
        raise ToolError("the edit would change nothing: the file already reads like this")
    return edit


def _replace(text: str, old: str, new: str, *, replace_all: bool) -> Edit:
    exact = _exact_spans(text, old)
    own_newline = "\r\n" if "\r\n" in new else "\n"  # where the text has none
    old, new = with_newlines(old, "\n"), with_newlines(new, "\n")
    if spans := exact or _newline_spans(text, old):
        return _replace_spans(text, spans, old, new, own_newline, replace_all=replace_all)
    lines = split_lines(text)
    wanted = _trim_blank(split_lines(old))
    if not wanted:
        raise ToolError("old_string is blank; give the text to replace")
    if starts := _line_matches(lines, wanted):
        return _replace_lines(text, lines, starts, old, new)
    if spans := _typographic_spans(text, old):
        return _replace_spans(
            text, spans, old, new, own_newline, replace_all=replace_all, note=MARKS_NOTE
        )
    raise ToolError(not_found(text, wanted))


# Matches: (start, end) of each in the text. Two that overlap are as ambiguous as two that do not.


def _exact_spans(text: str, old: str) -> list[tuple[int, int]]:
    """A match that begins with the second half of a CRLF takes in the first: no text is shown
    with the two apart."""
    spans = []
    start = text.find(old)
    while start >= 0:
        end = start + len(old)
        if not _splits_newline(text, end):
            spans.append((start - _splits_newline(text, start), end))
        start = text.find(old, start + 1)
    return spans


def _splits_newline(text: str, at: int) -> bool:
    return at > 0 and text[at - 1] == "\r" and text.startswith("\n", at)


def _newline_spans(text: str, old: str) -> list[tuple[int, int]]:
    if "\n" not in old:
        return []
    return _pattern_spans(text, re.escape(old).replace("\\\n", _NEWLINE))


def _typographic_spans(text: str, old: str) -> list[tuple[int, int]]:
    if not any(mark in _ALTERNATIVES for mark in old):
        return []
    pattern = "".join(_ALTERNATIVES.get(mark, re.escape(mark)) for mark in old)
    return _pattern_spans(text, pattern.replace("\\\n", _NEWLINE))


def _pattern_spans(text: str, pattern: str) -> list[tuple[int, int]]:
    found = (match.span(1) for match in re.finditer(f"(?=({pattern}))", text))
    return [span for span in found if not any(_splits_newline(text, at) for at in span)]


def _replace_spans(
    text: str,
    spans: list[tuple[int, int]],
    old: str,
    new: str,
    own_newline: str,
    *,
    replace_all: bool,
    note: str = "",
) -> Edit:
    """`old` and `new` have LF alone; `own_newline` stands for it where the text has no newline."""
    if len(spans) > 1 and not replace_all:
        raise ToolError(_several(text, [start for start, _ in spans]))
    head, tail = _common_ends(old, new)
    core = new[head : len(new) - tail]
    pieces: list[str] = []
    changes: list[tuple[int, str]] = []
    position = 0
    for start, end in spans:
        if start < position:
            continue  # overlaps the one just replaced
        places = _places(text, start, end)
        core_start, core_end = places[head], places[len(places) - 1 - tail]
        inserted = with_newlines(core, newline_at(text, core_start) or own_newline)
        pieces += [text[position:core_start], inserted]
        changes.append((core_start, inserted))
        position = core_end
    start, inserted = changes[0]
    return _edit_at(
        "".join(pieces) + text[position:],
        start=start,
        inserted=inserted,
        replacements=len(changes),
        note=note,
    )


def _common_ends(old: str, new: str) -> tuple[int, int]:
    """How many characters at their beginnings and at their ends are the same."""
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    rest = shorter - head
    tail = next((n for n in range(rest) if old[-1 - n] != new[-1 - n]), rest)
    return head, tail


def _places(text: str, start: int, end: int) -> list[int]:
    """Where each character of a match begins, and where the last ends; CRLF is one character."""
    if "\r\n" not in text[start:end]:
        return list(range(start, end + 1))
    return [
        *(match.start() for match in re.compile(r"\r\n|(?s:.)").finditer(text, start, end)),
        end,
    ]


def _edit_at(text: str, *, start: int, inserted: str, replacements: int, note: str = "") -> Edit:
    first = text.count("\n", 0, start) + 1
    extra = inserted.count("\n") - (1 if inserted.endswith("\n") else 0)
    return Edit(
        text=text,
        first_line=first,
        last_line=first + max(extra, 0),
        replacements=replacements,
        note=note,
    )


def _replace_lines(text: str, lines: list[str], starts: list[int], old: str, new: str) -> Edit:
    if len(starts) > 1:
        raise ToolError(
            f"old_string is not in the file exactly, and {len(starts)} places differ from it only "
            f"in spacing: lines {_numbers(starts)}. Copy more lines from the one you mean"
        )
    start = starts[0]
    given, wanted = split_lines(old), split_lines(new)
    wanted = wanted[_num_blank(given, wanted) :]
    wanted = wanted[: len(wanted) - _num_blank(given[::-1], wanted[::-1])]
    given = _trim_blank(given)
    region = lines[start : start + len(given)]
    before = "".join(lines[:start])
    newline = newline_at(text, len(before)) or "\n"
    replacement = [
        line if line in region else with_newlines(line, newline)
        for line in reindent(wanted, given, region)
    ]
    inserted = _joined(replacement, newline)
    if inserted and inserted.endswith("\n") != region[-1].endswith("\n"):
        inserted = inserted.rstrip("\r\n") if inserted.endswith("\n") else inserted + newline
    return _edit_at(
        before + inserted + "".join(lines[start + len(given) :]),
        start=len(before),
        inserted=inserted,
        replacements=1,
        note=SPACING_NOTE,
    )


def _joined(lines: list[str], newline: str) -> str:
    """A line without its newline can come from the end of the call or of the file, and stand
    before others now."""
    ended = [line if line.endswith("\n") else line + newline for line in lines[:-1]]
    return "".join(ended + lines[-1:])


def _trim_blank(lines: list[str]) -> list[str]:
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _num_blank(old: list[str], new: list[str]) -> int:
    """How many blank lines both begin with: those of `old` were looked past, so those of `new`
    are no change."""
    pairs = zip(old, new, strict=False)
    return next((n for n, pair in enumerate(pairs) if any(map(str.strip, pair))), 0)


def _line_matches(lines: list[str], wanted: list[str]) -> list[int]:
    squeezed = [" ".join(line.split()) for line in lines]
    pattern = [" ".join(line.split()) for line in wanted]
    return [
        start
        for start in range(len(lines) - len(wanted) + 1)
        if squeezed[start] == pattern[0] and squeezed[start : start + len(pattern)] == pattern
    ]


def _several(text: str, starts: list[int]) -> str:
    lines = [text.count("\n", 0, start) for start in starts[:_MAX_NAMED_LINES]]
    more = ", …" if len(starts) > _MAX_NAMED_LINES else ""
    return (
        f"old_string matches {len(starts)} places: lines {_numbers(lines)}{more}. Add lines around "
        "the one you mean, or set replace_all"
    )


def _numbers(lines: list[int]) -> str:
    return ", ".join(str(line + 1) for line in lines[:_MAX_NAMED_LINES])
