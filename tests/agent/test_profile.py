"""Small models and windows get less to read and fewer tools."""

from __future__ import annotations

from dataclasses import replace

from qcode.agent.profile import LEAN_TOOLS, choose_edit_format, choose_profile, offered
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


def test_the_lean_profile_offers_fewer_tools_and_whole_files_no_edits() -> None:
    assert offered(ALL, "full", "replace") == ALL
    assert offered(ALL, "lean", "replace") == LEAN_TOOLS
    assert "edit" not in offered(ALL, "full", "whole")
    assert "write_file" in offered(ALL, "lean", "whole")
