"""Diffs as people read them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcode.frontends.repl.diff_view import diff_lines, render_diff
from qcode.protocol.permissions import DiffDisplay

LINES = st.lists(st.sampled_from(["a", "b", "", "c d"]), max_size=12).map("\n".join)


@given(LINES, LINES)
def test_the_shown_lines_are_the_two_texts(old: str, new: str) -> None:
    lines = diff_lines(old, new, context=1000)
    if not lines:
        assert old.splitlines() == new.splitlines()
        return
    assert [line.text for line in lines if line.kind in " -"] == old.splitlines()
    assert [line.text for line in lines if line.kind in " +"] == new.splitlines()


@given(LINES, LINES)
def test_every_line_carries_its_own_number(old: str, new: str) -> None:
    for line in diff_lines(old, new):
        if line.number is not None:
            source = old if line.kind == "-" else new
            assert source.splitlines()[line.number - 1] == line.text


def test_a_rendered_diff_shows_counts_numbers_and_no_escapes() -> None:
    display = DiffDisplay(
        path="cart.py", old_text="one\ntwo\nthree\n", new_text="one\nt\x1b[31mwo\nthree\n"
    )
    text = render_diff(display).plain
    assert text.splitlines()[0] == "cart.py  +1 -1"
    assert "2 - two" in text
    assert "2 + two" in text
    assert "\x1b" not in text


def test_a_huge_change_is_counted_not_compared() -> None:
    old = "\n".join(str(number) for number in range(15_000))
    [line] = diff_lines(old, old + "\nmore")
    assert line.text == "15000 lines before, 15001 lines after"
