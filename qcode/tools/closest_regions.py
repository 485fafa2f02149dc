"""What a text holds that is most like a piece that is not in it, in words for the model. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from qcode.tools.text_lines import numbered_lines, split_lines

_MAX_REGIONS = 3
_MAX_SHOWN_LINES = 12
_MAX_SEARCHED_LINES = 20_000
_MAX_COMPARED_CHARS = 2_000  # the ratio takes time to the square
_MAX_ANCHOR_CHARS = 300
_MIN_ANCHOR_LIKENESS = 0.4
_MIN_SIMILARITY = 0.5
_NUMBERED = re.compile(r"[ ]{0,6}\d+\t")


def not_found(text: str, wanted: list[str]) -> str:
    """The refusal for lines that are not in `text`, with the closest regions and their numbers."""
    message = "old_string is not in the file"
    if all(_NUMBERED.match(line) for line in wanted if line.strip()):
        message += " (leave out the line numbers that read_file shows)"
    regions = list(closest_regions(split_lines(text), wanted))
    if not regions:
        return f"{message}, nor anything like it; read the file again"
    shown = "\n\n".join(
        numbered_lines(text, start + 1, start + min(len(wanted), _MAX_SHOWN_LINES))
        for start in regions
    )
    return f"{message}. The closest lines are:\n{shown}"


def closest_regions(lines: list[str], wanted: list[str]) -> Iterator[int]:
    """Starts of at most three regions most like `wanted`, best first, none overlapping another."""
    if len(lines) > _MAX_SEARCHED_LINES:
        return
    anchor = max(range(len(wanted)), key=lambda index: len(wanted[index].strip()))
    likeness = _likeness(lines, wanted[anchor].strip())
    candidates = sorted(likeness, key=lambda index: likeness[index], reverse=True)[:10]
    block = "".join(wanted)[:_MAX_COMPARED_CHARS]
    scored = []
    for index in candidates:
        start = max(0, min(index - anchor, len(lines) - len(wanted)))
        region = "".join(lines[start : start + len(wanted)])[:_MAX_COMPARED_CHARS]
        score = difflib.SequenceMatcher(None, block, region, autojunk=False).ratio()
        scored.append((score, -start))
    taken: list[int] = []
    for score, negative in sorted(scored, reverse=True):
        start = -negative
        apart = all(abs(start - other) >= len(wanted) for other in taken)
        if score >= _MIN_SIMILARITY and apart:
            taken.append(start)
            yield start
        if len(taken) == _MAX_REGIONS:
            return


def _likeness(lines: list[str], anchor: str) -> dict[int, float]:
    """The lines that share enough characters with `anchor` to be looked at, by their index."""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(anchor[:_MAX_ANCHOR_CHARS])
    result: dict[int, float] = {}
    for index, line in enumerate(lines):
        matcher.set_seq1(line.strip()[:_MAX_ANCHOR_CHARS])
        if (
            matcher.real_quick_ratio() >= _MIN_ANCHOR_LIKENESS
            and (ratio := matcher.quick_ratio()) >= _MIN_ANCHOR_LIKENESS
        ):
            result[index] = ratio
    return result
