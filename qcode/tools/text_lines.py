"""A text as lines, and its newlines. Pure."""

from __future__ import annotations

import re


def split_lines(text: str) -> list[str]:
    """Lines with their LF or CRLF. Other line separators are ordinary characters in source code."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def numbered_lines(text: str, first: int, last: int) -> str:
    """Lines `first` to `last` (from 1, both included) as `read_file` shows them."""
    lines = split_lines(text)
    last = min(last, len(lines))
    return "\n".join(
        f"{number:6d}\t{lines[number - 1].rstrip(chr(13) + chr(10))}"
        for number in range(max(first, 1), last + 1)
    )


def newline_style(text: str) -> str | None:
    """The newline a text uses throughout; None if it mixes them or has none."""
    crlf = text.count("\r\n")
    lf = text.count("\n") - crlf
    if crlf and not lf:
        return "\r\n"
    return "\n" if lf and not crlf else None


def newline_at(text: str, at: int) -> str | None:
    """The newline used where `at` stands: the next one, else the last before; None without any."""
    end = text.find("\n", at)
    if end < 0:
        end = text.rfind("\n", 0, at)
    if end < 0:
        return None
    return "\r\n" if end and text[end - 1] == "\r" else "\n"


def with_newlines(text: str, newline: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", newline)
