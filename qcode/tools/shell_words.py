"""One word of a shell line -> its literal value (POSIX Shell Command Language 2.2, bash 3.1.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSI_C = {
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
    "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_ANSI_C_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|(.))",
    re.DOTALL,
)
_PARAMETER = re.compile(r"\$[A-Za-z0-9_{(@*#?$!\[-]")


@dataclass(frozen=True, slots=True)
class Word:
    """`expands`: an unquoted glob, brace or tilde may turn it into other words."""

    value: str
    expands: bool = False


def resolve_word(source: str) -> Word | None:
    """None where the value cannot be known from the text: a parameter, a substitution, a stray
    quote."""
    value: list[str] = []
    expands = False
    position = 0
    while position < len(source):
        character = source[position]
        if character == "\\":
            if position + 1 == len(source):
                return None
            value.append(source[position + 1])
            position += 2
        elif character == "'":
            end = source.find("'", position + 1)
            if end < 0:
                return None
            value.append(source[position + 1 : end])
            position = end + 1
        elif character == '"' or source.startswith('$"', position):
            quoted = _double_quoted(source, position + (1 if character == '"' else 2))
            if quoted is None:
                return None
            text, position = quoted
            value.append(text)
        elif source.startswith("$'", position):
            quoted = _ansi_c_quoted(source, position + 2)
            if quoted is None:
                return None
            text, position = quoted
            value.append(text)
        elif character == "`" or _PARAMETER.match(source, position):
            return None
        else:
            expands = expands or _begins_expansion(source, position)
            value.append(character)
            position += 1
    return Word("".join(value), expands)


def _begins_expansion(source: str, position: int) -> bool:
    """A tilde expands at the start and after the `:` and `=` of a word like an assignment, a brace
    only with a list or a range in it."""
    match source[position]:
        case "*" | "?" | "[":
            return True
        case "{":
            return source.find(",", position) > 0 or source.find("..", position) > 0
        case "~":
            return position == 0 or source[position - 1] in ":="
    return False


def _double_quoted(source: str, position: int) -> tuple[str, int] | None:
    value: list[str] = []
    while position < len(source):
        character = source[position]
        if character == '"':
            return "".join(value), position + 1
        if character == "`" or _PARAMETER.match(source, position):
            return None
        if character == "\\" and source[position + 1 : position + 2] in {'"', "\\", "$", "`"}:
            position += 1
            character = source[position]
        value.append(character)
        position += 1
    return None


def _ansi_c_quoted(source: str, position: int) -> tuple[str, int] | None:
    end = position
    while end < len(source) and source[end] != "'":
        end += 2 if source[end] == "\\" else 1
    if end >= len(source):
        return None
    try:
        return _ANSI_C_ESCAPE.sub(_unescape, source[position:end]), end + 1
    except (ValueError, OverflowError):
        return None


def _unescape(match: re.Match[str]) -> str:
    two_hex, four_hex, eight_hex, octal, single = match.groups()
    code = two_hex or four_hex or eight_hex
    if code or octal:
        number = int(code, 16) if code else int(octal, 8) & 0xFF
        if number == 0 or 0xD800 <= number <= 0xDFFF or (not four_hex and number > 0x7F):
            raise ValueError("ends the string, or is a byte that depends on the locale")
        return chr(number)
    if single in _ANSI_C:
        return _ANSI_C[single]
    if single == "c":
        raise ValueError("a control character")
    return f"\\{single}"
