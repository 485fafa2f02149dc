"""Tags of the call formats, matched where text may still be on its way."""

from __future__ import annotations

NO = -1
PARTIAL = -2
"""The text ends inside what may become the tag."""

Tag = tuple[str, ...]
"""The parts of a tag. Models put blanks between them (`< parameter = x >`)."""

TOOL_OPEN: Tag = ("<", "tool_call", ">")
TOOL_CLOSE: Tag = ("<", "/", "tool_call", ">")
FUNCTION_OPEN: Tag = ("<", "function", "=")
FUNCTION_CLOSE: Tag = ("<", "/", "function", ">")
PARAMETER_OPEN: Tag = ("<", "parameter", "=")
PARAMETER_CLOSE: Tag = ("<", "/", "parameter", ">")

_MAX_BLANKS = 8
_MAX_NAME = 128
_AROUND_NAMES = " \t\"'`"


def usable_name(written: str) -> bool:
    """Whether it can name a function or parameter, once quotes around it are taken off."""
    name = written.strip(_AROUND_NAMES)
    if not name or len(name) > _MAX_NAME:
        return False
    return not any(mark in "{}<>\"'" or mark.isspace() for mark in name)


def match_tag(text: str, at: int, tag: Tag) -> int:
    """Where `tag`, begun at `at`, ends; NO or PARTIAL."""
    for number, part in enumerate(tag):
        if number:
            limit = at + _MAX_BLANKS
            while at < limit and text[at : at + 1] in (" ", "\t"):
                at += 1
        piece = text[at : at + len(part)]
        if piece != part:
            ends_here = at + len(piece) == len(text)
            return PARTIAL if ends_here and part.startswith(piece) else NO
        at += len(part)
    return at


def match_name(text: str, at: int) -> tuple[int, str]:
    """The name up to `>` or the line's end, and where what follows it begins.

    NO where it cannot be a name: template source and prose are full of things like it.
    """
    for end in range(at, min(len(text), at + _MAX_NAME)):
        char = text[end]
        if char == ">" or char == "\n":
            name = text[at:end].strip(_AROUND_NAMES)
            return (end + 1 if char == ">" else end, name) if usable_name(name) else (NO, "")
        if char in "{}<":
            return NO, ""
    return (PARTIAL if len(text) - at < _MAX_NAME else NO), ""


def skip_space(text: str, at: int, limit: int) -> int:
    """The first place from `at` that is not white space; NO past `limit` characters of it."""
    end = at
    while end < len(text) and text[end].isspace():
        end += 1
        if end - at > limit:
            return NO
    return end
