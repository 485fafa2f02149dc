"""How much a model is told and offered, by what it can make use of."""

from __future__ import annotations

from typing import Literal

from qcode.protocol.backends import ModelInfo

Profile = Literal["full", "lean"]
EditFormat = Literal["replace", "whole"]

SMALL_WINDOW = 16_384
LEAN_TOOLS = ("read_file", "write_file", "edit", "grep_search", "run_shell_command")
EDIT_TOOL = "edit"


def choose_profile(model: ModelInfo) -> Profile:
    """Lean for a small model, which follows short instructions better and, on a CPU, reads every
    50 tokens in a second; and for a small window, of which the full profile takes too much."""
    window = model.context_window
    small_window = window is not None and window <= SMALL_WINDOW
    return "lean" if model.strength == "small" or small_window else "full"


def choose_edit_format(model: ModelInfo) -> EditFormat:
    """Whole files for a small model: it seldom copies the passage to be replaced exactly, or takes
    one that stands in several places."""
    return "whole" if model.strength == "small" else "replace"


def chosen_tools(names: tuple[str, ...], profile: Profile) -> tuple[str, ...]:
    """Which of the tools a session has where the person has not chosen."""
    return names if profile == "full" else tuple(name for name in names if name in LEAN_TOOLS)


def unoffered_tools(edit_format: EditFormat) -> frozenset[str]:
    """The tools that a model is not told of: with whole files it writes them anew and there is
    nothing to match. The harness uses them all the same where it leads."""
    return frozenset({EDIT_TOOL}) if edit_format == "whole" else frozenset()
