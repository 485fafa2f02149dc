"""A file name pattern -> a regular expression over slash-separated relative paths."""

from __future__ import annotations

import re

from qcode.protocol.errors import ToolError


def compile_glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a name, `**` crosses directories, `[a-z]` and `{a,b}` as in a shell.
    Raises `ToolError` for a pattern that is not closed."""
    expression = _translate(pattern.removeprefix("./"))
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise ToolError(f"not a glob pattern: {pattern} ({error})") from None


def _translate(pattern: str) -> str:
    pieces: list[str] = []
    depth = 0
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if pattern.startswith("**/", position):
            pieces.append("(?:[^/]+/)*")
            position += 3
            continue
        if pattern.startswith("**", position):
            pieces.append(".*")
            position += 2
            continue
        if character == "[" and (end := pattern.find("]", position + 2)) > 0:
            body = pattern[position + 1 : end].replace("\\", "\\\\")
            pieces.append(f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]")
            position = end + 1
            continue
        match character:
            case "*":
                pieces.append("[^/]*")
            case "?":
                pieces.append("[^/]")
            case "{":
                depth += 1
                pieces.append("(?:")
            case "}" if depth:
                depth -= 1
                pieces.append(")")
            case "," if depth:
                pieces.append("|")
            case _:
                pieces.append(re.escape(character))
        position += 1
    return "".join(pieces)
