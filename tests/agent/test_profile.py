"""Small models and windows get less to read and fewer tools."""

from __future__ import annotations

from dataclasses import replace

from qcode.agent.profile import (
    LEAN_TOOLS,
    choose_edit_format,
    choose_profile,
    chosen_tools,
    unoffered_tools,
)
from qcode.protocol.backends import ModelInfo

MODEL = ModelInfo(name="m", context_window=32_768)
ALL = (*LEAN_TOOLS, "glob", "todo_write")


def test_the_profile_follows_the_model_and_its_window() -> None:
    assert choose_profile(MODEL) == "full"
    assert choose_profile(replace(MODEL, strength="small")) == "lean"
    assert choose_profile(replace(MODEL, context_window=8_192)) == "lean"
    assert choose_profile(replace(MODEL, context_window=None)) == "full"


def test_a_small_model_writes_whole_files() -> None:
    assert choose_edit_format(replace(MODEL, strength="small")) == "whole"
    assert choose_edit_format(replace(MODEL, context_window=8_192)) == "replace"


def test_the_lean_profile_has_fewer_tools_and_whole_files_need_no_edits() -> None:
    assert chosen_tools(ALL, "full") == ALL
    assert chosen_tools(ALL, "lean") == LEAN_TOOLS
    assert unoffered_tools("whole") == {"edit"}
    assert unoffered_tools("replace") == frozenset()
