"""What would flood the context is cut, and the whole of it can still be read."""

from __future__ import annotations

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.large_results import ResultLimit

LONG = "head" + "x" * 5_000 + "tail"


def test_the_whole_is_in_a_file_that_only_the_user_can_read(tmp_path: Path) -> None:
    directory = tmp_path / "output"
    cut = ResultLimit(max_chars=1_000, directory=directory).cut(LONG, tool="grep/search")
    (file,) = directory.iterdir()
    assert f"all of it is in {file}" in cut
    assert file.read_text() == LONG
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cut.startswith("head")
    assert cut.endswith("tail")


def test_a_tool_that_kept_its_output_is_not_kept_twice(tmp_path: Path) -> None:
    limit = ResultLimit(max_chars=1_000, directory=tmp_path)
    limit.cut(f"exit code 0 (all of it is in {tmp_path}/kept)\n{LONG}", tool="run_shell_command")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_copied_but_read_in_parts(tmp_path: Path) -> None:
    cut = ResultLimit(max_chars=1_000, directory=tmp_path).cut(LONG, tool="read_file")
    assert "offset" in cut
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_result_is_cut_all_the_same(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cut = ResultLimit(max_chars=1_000, directory=blocked).cut(LONG, tool="glob")
    assert len(cut) < 1_200


@given(st.text(max_size=300), st.integers(2, 100))
def test_no_result_is_longer_than_limit_and_note(content: str, limit: int) -> None:
    cut = ResultLimit(max_chars=limit).cut(content, tool="t")
    assert len(cut) <= limit + 60
    if len(content) <= limit:
        assert cut == content
