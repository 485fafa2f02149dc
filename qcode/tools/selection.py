"""Which tools a session offers, by the names a person gives them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qcode.protocol.errors import SettingsError
from qcode.protocol.tools import Tool

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Read": ("read_file", "list_directory", "glob", "grep_search"),
    "Edit": ("edit", "write_file"),
    "Bash": ("run_shell_command",),
}
"""The words that stand for several tools in permission rules stand for the same ones here."""


def select_tools(tools: Sequence[Tool[Any]], wanted: Iterable[str] | None) -> tuple[Tool[Any], ...]:
    """Those of `tools` that are `wanted` (None: all), in their own order. Raises `SettingsError`
    for a name that no tool has."""
    if wanted is None:
        return tuple(tools)
    known = {tool.name for tool in tools}
    names: set[str] = set()
    for name in wanted:
        found = known.intersection(GROUPS.get(name, (name,)))
        if not found:
            near = difflib.get_close_matches(name, [*GROUPS, *sorted(known)], n=1)
            guess = f"Did you mean {near[0]}? " if near else ""
            raise SettingsError(
                f"tools: there is no tool {name!r}.",
                f"{guess}The tools are {', '.join(sorted(known))}; Read, Edit and Bash name all "
                "of a kind.",
            )
        names |= found
    return tuple(tool for tool in tools if tool.name in names)
