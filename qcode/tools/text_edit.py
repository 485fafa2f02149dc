"""Replace one piece of a text, or refuse. Pure.

Tried in order: the exact text; the same with CRLF and LF taken alike; whole lines that differ only
in spacing, the replacement then indented as the file is. A choice is never made among several
matches. What is outside the replaced region keeps every character, and the replacement takes the
newlines of the region it stands in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from qcode.protocol.errors import ToolError

_MAX_SHOWN_REGIONS = 3
_MAX_SHOWN_LINES = 12
_MAX_SEARCHED_LINES = 20_000
_MIN_SIMILARITY = 0.5


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
    spans = _exact_spans(text, old) or _newline_spans(text, old)
    if spans:
        edit = _replace_spans(text, spans, new, replace_all=replace_all)
    else:
        edit = _replace_lines(text, old, new)
    if edit.text == text:
        raise ToolError("the edit would change nothing: the file already reads like this")
    return edit


def numbered_lines(text: str, first: int, last: int) -> str:
    """Lines `first` to `last` (from 1, both included) as `read_file` shows them."""
    lines = split_lines(text)
    last = min(last, len(lines))
    return "\n".join(
        f"{number:6d}\t{lines[number - 1].rstrip(chr(13) + chr(10))}"
        for number in range(max(first, 1), last + 1)
    )


def split_lines(text: str) -> list[str]:
    """Lines with their LF or CRLF. Other line separators are ordinary characters in source code."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def newline_style(text: str) -> str | None:
    """The newline a text uses throughout; None if it mixes them or has none."""
    crlf = text.count("\r\n")
    lf = text.count("\n") - crlf
    if crlf and not lf:
        return "\r\n"
    return "\n" if lf and not crlf else None


def with_newlines(text: str, newline: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", newline)


def _exact_spans(text: str, old: str) -> list[tuple[int, int]]:
    """All matches, overlapping ones too: two that overlap are as ambiguous as two that do not."""
    spans = []
    start = text.find(old)
    while start >= 0:
        spans.append((start, start + len(old)))
        start = text.find(old, start + 1)
    return spans


def _newline_spans(text: str, old: str) -> list[tuple[int, int]]:
    if "\n" not in old or "\r\n" not in text + old:
        return []
    pattern = re.escape(with_newlines(old, "\n")).replace("\\\n", r"\r?\n")
    return [match.span(1) for match in re.finditer(f"(?=({pattern}))", text)]


def _replace_spans(text: str, spans: list[tuple[int, int]], new: str, *, replace_all: bool) -> Edit:
    if len(spans) > 1 and not replace_all:
        raise ToolError(_several(text, [start for start, _ in spans]))
    pieces: list[str] = []
    position = 0
    count = 0
    for start, end in spans:
        if start < position:
            continue  # overlaps the one just replaced
        pieces += [text[position:start], _in_style(new, text[start:end], text)]
        position = end
        count += 1
    first = spans[0][0]
    inserted = _in_style(new, text[first : spans[0][1]], text)
    return _edit_at(
        "".join(pieces) + text[position:], start=first, inserted=inserted, replacements=count
    )


def _in_style(new: str, region: str, text: str) -> str:
    """`new` with the newlines of the region it replaces, else those of the whole text."""
    newline = newline_style(region) or newline_style(text)
    return with_newlines(new, newline) if newline else new


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


def _replace_lines(text: str, old: str, new: str) -> Edit:
    lines = split_lines(text)
    wanted = _trim_blank(split_lines(old))
    if not wanted:
        raise ToolError("old_string is blank; give the text to replace")
    starts = _line_matches(lines, wanted)
    if not starts:
        raise ToolError(_not_found(text, lines, wanted))
    if len(starts) > 1:
        numbers = ", ".join(str(start + 1) for start in starts[:20])
        raise ToolError(
            f"old_string is not in the file exactly, and {len(starts)} places differ from it only "
            f"in spacing: lines {numbers}. Copy more lines from the one you mean"
        )
    start = starts[0]
    region = lines[start : start + len(wanted)]
    replacement = _reindent(_trim_blank(split_lines(new)), wanted, region)
    inserted = _in_style("".join(replacement), "".join(region), text)
    if inserted and not inserted.endswith("\n") and region[-1].endswith("\n"):
        inserted += "\r\n" if region[-1].endswith("\r\n") else "\n"
    before = "".join(lines[:start])
    return _edit_at(
        before + inserted + "".join(lines[start + len(wanted) :]),
        start=len(before),
        inserted=inserted,
        replacements=1,
        note="old_string did not match exactly, only up to spacing; new_string was indented like "
        "the file. Check the result",
    )


def _trim_blank(lines: list[str]) -> list[str]:
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _line_matches(lines: list[str], wanted: list[str]) -> list[int]:
    squeezed = [" ".join(line.split()) for line in lines]
    pattern = [" ".join(line.split()) for line in wanted]
    return [
        start
        for start in range(len(lines) - len(wanted) + 1)
        if squeezed[start] == pattern[0] and squeezed[start : start + len(pattern)] == pattern
    ]


def _reindent(new: list[str], old: list[str], region: list[str]) -> list[str]:
    """`new` was written for the indentation of `old`; the file has that of `region`."""
    pairs = [(_indent(line), _indent(actual)) for line, actual in zip(old, region, strict=True)]
    known: dict[str, str] = {}
    for (written, actual), line in zip(pairs, old, strict=True):
        if line.strip():
            known.setdefault(written, actual)
    result = []
    for index, line in enumerate(new):
        in_place = index < len(old) and old[index].strip() and _indent(line) == pairs[index][0]
        if not line.strip():
            result.append(line)
        elif in_place:
            # One indentation in the call may stand for two in the file: then the place decides.
            result.append(pairs[index][1] + line.lstrip(" \t"))
        else:
            result.append(_indent_like(line, known, *pairs[0]))
    return result


def _indent_like(line: str, known: dict[str, str], written: str, actual: str) -> str:
    """`written` and `actual` are the indentations of the first line."""
    indent = _indent(line)
    body = line[len(indent) :]
    if indent in known:
        return known[indent] + body
    # Deeper than a line that is known: what is beyond it stays.
    base = max((shallow for shallow in known if indent.startswith(shallow)), key=len, default=None)
    if base is not None:
        return known[base] + indent[len(base) :] + body
    if written.startswith(indent) and actual.endswith(written[len(indent) :]):
        missing = len(written) - len(indent)
        return actual[: len(actual) - missing] + body
    return line


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _several(text: str, starts: list[int]) -> str:
    numbers = ", ".join(str(text.count("\n", 0, start) + 1) for start in starts[:20])
    more = ", …" if len(starts) > 20 else ""
    return (
        f"old_string matches {len(starts)} places: lines {numbers}{more}. Add lines around the one "
        "you mean, or set replace_all"
    )


def _not_found(text: str, lines: list[str], wanted: list[str]) -> str:
    regions = list(_closest(lines, wanted))
    if not regions:
        return "old_string is not in the file, nor anything like it; read the file again"
    shown = "\n\n".join(
        numbered_lines(text, start + 1, start + min(len(wanted), _MAX_SHOWN_LINES))
        for start in regions
    )
    return f"old_string is not in the file. The closest lines are:\n{shown}"


def _closest(lines: list[str], wanted: list[str]) -> Iterator[int]:
    """Starts of the regions most like `wanted`, best first, none overlapping another."""
    if len(lines) > _MAX_SEARCHED_LINES:
        return
    anchor = max(range(len(wanted)), key=lambda index: len(wanted[index].strip()))
    likeness = _likeness(lines, wanted[anchor].strip())
    candidates = sorted(likeness, key=lambda index: likeness[index], reverse=True)[:10]
    block = "".join(wanted)
    scored = []
    for index in candidates:
        start = max(0, min(index - anchor, len(lines) - len(wanted)))
        region = "".join(lines[start : start + len(wanted)])
        # Long blocks are compared by their beginning: the ratio takes time to the square.
        score = difflib.SequenceMatcher(None, block[:2000], region[:2000], autojunk=False).ratio()
        scored.append((score, -start))
    taken: list[int] = []
    for score, negative in sorted(scored, reverse=True):
        start = -negative
        apart = all(abs(start - other) >= len(wanted) for other in taken)
        if score >= _MIN_SIMILARITY and apart:
            taken.append(start)
            yield start
        if len(taken) == _MAX_SHOWN_REGIONS:
            return


def _likeness(lines: list[str], anchor: str) -> dict[int, float]:
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(anchor[:300])
    result: dict[int, float] = {}
    for index, line in enumerate(lines):
        matcher.set_seq1(line.strip()[:300])
        if matcher.real_quick_ratio() >= 0.4 and matcher.quick_ratio() >= 0.4:
            result[index] = matcher.quick_ratio()
    return result
