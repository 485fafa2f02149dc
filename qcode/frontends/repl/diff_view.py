"""A change of one file as coloured lines with their numbers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from qcode.protocol.permissions import DiffDisplay
from qcode.sandbox.terminal_text import printable

CONTEXT_LINES = 3
MAX_LINES = 200
# difflib is quadratic at worst: beyond this the counts are shown instead of the lines.
MAX_DIFFED_LINES = 20_000

_STYLES = {" ": "dim", "-": "red", "+": "green", "…": "dim"}


@dataclass(frozen=True, slots=True)
class DiffLine:
    """`number` is the line's in the new text, or in the old one for a removed line."""

    kind: Literal[" ", "-", "+", "…"]
    number: int | None
    text: str


def diff_lines(old_text: str, new_text: str, context: int = CONTEXT_LINES) -> list[DiffLine]:
    """The changed regions of two texts with some lines around them."""
    old, new = old_text.splitlines(), new_text.splitlines()
    if len(old) + len(new) > MAX_DIFFED_LINES:
        return [DiffLine("…", None, f"{len(old)} lines before, {len(new)} lines after")]
    lines: list[DiffLine] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(context):
        if lines:
            lines.append(DiffLine("…", None, ""))
        for tag, old_start, old_end, new_start, new_end in group:
            if tag == "equal":
                for offset, text in enumerate(new[new_start:new_end]):
                    lines.append(DiffLine(" ", new_start + offset + 1, text))
                continue
            for offset, text in enumerate(old[old_start:old_end]):
                lines.append(DiffLine("-", old_start + offset + 1, text))
            for offset, text in enumerate(new[new_start:new_end]):
                lines.append(DiffLine("+", new_start + offset + 1, text))
    return lines


def render_diff(display: DiffDisplay, indent: str = "", max_lines: int = MAX_LINES) -> Text:
    """Header with counts, then the changed lines. All foreign text is made printable."""
    lines = diff_lines(display.old_text or "", display.new_text)
    added = sum(line.kind == "+" for line in lines)
    removed = sum(line.kind == "-" for line in lines)
    verb = "new file" if display.old_text is None else f"+{added} -{removed}"
    result = Text()
    result.append(f"{indent}{printable(display.path)}", style="bold")
    result.append(f"  {verb}", style="dim")
    width = len(str(max((line.number or 0 for line in lines), default=0)))
    for line in lines[:max_lines]:
        number = "" if line.number is None else str(line.number)
        style = _STYLES[line.kind]
        result.append(f"\n{indent}{number:>{width}} {line.kind} ", style=style)
        result.append(printable(line.text), style=style)
    if len(lines) > max_lines:
        result.append(f"\n{indent}… {len(lines) - max_lines} more lines", style="dim")
    return result
