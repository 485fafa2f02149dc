"""Lines written for one indentation, as they stand in a file that is indented otherwise. Pure."""

from __future__ import annotations

import difflib
import math

from qcode.protocol.errors import ToolError

_USUAL_UNITS = (2, 3, 4, 8)


def reindent(new: list[str], old: list[str], region: list[str]) -> list[str]:
    """`new` is to replace `old`, which the file has as `region`: the same lines but for spacing.

    Lines that stay the same are the file's own. A changed line is indented as the line in whose
    place it stands, else as the lines that were written with its indentation. Raises `ToolError`
    where those are indented in several ways, so that the place of a line would be a guess.
    """
    indents = _Indentation(new, old, region)
    wanted = [line.rstrip() for line in new]
    given = [line.rstrip() for line in old]
    result: list[str] = []
    matcher = difflib.SequenceMatcher(None, given, wanted, autojunk=False)
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            result += region[old_start:old_end]
            continue
        in_place = old_end - old_start == new_end - new_start
        for number, line in enumerate(new[new_start:new_end], old_start):
            if in_place and line.strip() and _indent(line) == _indent(old[number]):
                result.append(_indent(region[number]) + line.lstrip(" \t"))
            else:
                result.append(indents.apply(line))
    return result


class _Indentation:
    """What the indentations of a call stand for in the file."""

    def __init__(self, new: list[str], old: list[str], region: list[str]) -> None:
        self._known: dict[str, set[str]] = {}
        for line, actual in zip(old, region, strict=True):
            if line.strip():
                self._known.setdefault(_indent(line), set()).add(_indent(actual))
        self._first = _indent(old[0]), _indent(region[0])
        self._unit = self._spaces_of_a_tab([*new, *old])

    def apply(self, line: str) -> str:
        indent = _indent(line)
        body = line[len(indent) :]
        if not line.strip():
            return line
        if indent in self._known:
            return self._only(indent) + body
        # Deeper than a line that is known: what is beyond it stays.
        bases = [shallow for shallow in self._known if indent.startswith(shallow)]
        if bases:
            base = max(bases, key=len)
            actual = self._first[1] if base == self._first[0] else self._only(base)
            return actual + self._beyond(indent[len(base) :]) + body
        written, actual = self._first
        if written.startswith(indent) and actual.endswith(written[len(indent) :]):
            return actual[: len(actual) - (len(written) - len(indent))] + body
        return line

    def _only(self, indent: str) -> str:
        actual = self._known[indent]
        if len(actual) > 1:
            raise ToolError(
                "old_string is in the file up to spacing, but lines it indents alike are indented "
                "differently there, so where the new lines belong is not clear. Copy old_string "
                "with the file's indentation"
            )
        return next(iter(actual))

    def _beyond(self, rest: str) -> str:
        """Indentation beyond a known one, in tabs where the file has tabs for the call's spaces."""
        if self._unit and not rest.strip(" ") and len(rest) % self._unit == 0:
            return "\t" * (len(rest) // self._unit)
        return rest

    def _spaces_of_a_tab(self, lines: list[str]) -> int:
        """How many of the call's spaces stand for a tab; 0 where the file does not use tabs."""
        actual = set().union(*self._known.values())
        if not any(actual) or any(indent.strip("\t") for indent in actual):
            return 0
        common = math.gcd(*(len(_indent(line)) for line in lines if line.strip()))
        return common if common in _USUAL_UNITS else 0


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
