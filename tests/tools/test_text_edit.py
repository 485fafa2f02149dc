from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcode.protocol.errors import ToolError
from qcode.tools.text_edit import numbered_lines, replace_text, split_lines

CODE = "def f(x):\n    if x:\n        return 1\n    return 2\n"


def test_an_exact_unique_match_is_replaced() -> None:
    edit = replace_text(CODE, "return 2", "return 3\n    # done")
    assert edit.text == CODE.replace("return 2", "return 3\n    # done")
    assert (edit.first_line, edit.last_line, edit.note) == (4, 5, "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return", "x", "matches 2 places: lines 3, 4"),
        ("return 1", "return 1", "are the same"),
        ("", "x", "old_string is empty"),
        (" \n ", "x", "old_string is blank"),
        ("nothing like this", "x", "nor anything like it"),
        (
            "def g(x):\n    if xy:",
            "x",
            "The closest lines are:\n     1\tdef f(x):\n     2\t    if x:",
        ),
        ("if x:\nreturn 1", "if x:\n    return 1", "would change nothing"),
    ],
)
def test_anything_else_is_refused_in_words_that_help(old: str, new: str, message: str) -> None:
    with pytest.raises(ToolError) as raised:
        replace_text(CODE, old, new)
    assert message in raised.value.message


def test_replace_all() -> None:
    edit = replace_text("aaa b aa", "aa", "c", replace_all=True)
    assert (edit.text, edit.replacements) == ("ca b c", 2)


def test_matches_that_overlap_are_several() -> None:
    with pytest.raises(ToolError, match="matches 2 places"):
        replace_text("aaa", "aa", "b")


def test_at_most_three_regions_are_shown_best_first() -> None:
    text = "".join(f"value_{n} = compute({n}, scale)\n\n\n" for n in range(10))
    with pytest.raises(ToolError) as raised:
        replace_text(text, "value_7 = compute(7, scales)", "x")
    shown = raised.value.message.partition("are:\n")[2].split("\n\n")
    assert len(shown) == 3
    assert "value_7" in shown[0]


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        ("a\r\nb\r\nc\r\n", "a\nb", "x\ny\nz", "x\r\ny\r\nz\r\nc\r\n"),
        ("a\nb\nc\n", "a\r\nb", "x\r\ny", "x\ny\nc\n"),
        ("a\r\nb\nc\r\n", "b\nc", "x\ny", "a\r\nx\ny\r\n"),
        ("a\r\nb\r\n", "b", "x\ny", "a\r\nx\r\ny\r\n"),
        ("a\r\nb\nmid\n", "a\r\nb", "x\ny", "x\r\ny\nmid\n"),
    ],
)
def test_the_replacement_takes_the_newlines_of_its_place(
    text: str, old: str, new: str, result: str
) -> None:
    assert replace_text(text, old, new).text == result


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        (  # deeper in the file than in the call
            "class A:\n    def f(self):\n        return 1\n",
            "def f(self):\n    return 1\n",
            "def f(self):\n    if True:\n        return 2\n",
            "class A:\n    def f(self):\n        if True:\n            return 2\n",
        ),
        (  # shallower
            "def f():\n    return 1\n",
            "    def f():\n        return 1",
            "    def f():\n        return 2",
            "def f():\n    return 2\n",
        ),
        (  # tabs in the file, spaces in the call
            "if a:\n\tif b:\n\t\tc()\n",
            "if a:\n    if b:\n        c()",
            "if a:\n    if b:\n        d()\n    e()",
            "if a:\n\tif b:\n\t\td()\n\te()\n",
        ),
        (  # inner spacing, blank lines around
            "x  =  1\ny = 2\n",
            "\nx = 1\n\n",
            "x = 3",
            "x = 3\ny = 2\n",
        ),
        (  # a new line that is shallower than all that is known
            "    a()\n        b()\n        c()\n",
            "  b()\n  c()\n",
            "  b()\nd()\n",
            "    a()\n        b()\n      d()\n",
        ),
        (  # the last line has no newline, and gets none
            "a\n  b",
            "a\nb",
            "a\nc",
            "a\n  c",
        ),
        (  # CRLF stays
            "if a:\r\n    b()\r\n",
            "if a:\n  b()",
            "if a:\n  c()",
            "if a:\r\n    c()\r\n",
        ),
    ],
)
def test_whole_lines_match_up_to_spacing_and_are_indented_again(
    text: str, old: str, new: str, result: str
) -> None:
    edit = replace_text(text, old, new)
    assert edit.text == result
    assert "not match exactly" in edit.note


def test_several_matches_up_to_spacing_are_never_chosen_among() -> None:
    with pytest.raises(ToolError, match="only in spacing: lines 1, 3"):
        replace_text("a( 1 )\nb\n  a( 1 )\n", "a(  1 )", "c")


LINES = st.lists(st.sampled_from(["a", "b", "  a", "\tb", "", "c d", "é"]), max_size=12)
NEWLINES = st.sampled_from(["\n", "\r\n"])
TEXTS = st.builds(lambda lines, newline: newline.join(lines), LINES, NEWLINES)


@given(TEXTS, TEXTS, TEXTS)
def test_one_unique_match_or_a_refusal(text: str, old: str, new: str) -> None:
    try:
        edit = replace_text(text, old, new)
    except ToolError:
        return
    assert edit.text != text
    # Around the replaced region not one character differs.
    before = len(common_prefix(text, edit.text))
    after = len(common_prefix(text[before:][::-1], edit.text[before:][::-1]))
    removed = text[before : len(text) - after]
    assert len(removed) <= sum(len(line) for line in split_lines(text))
    squeezed = "".join(removed.split())
    assert squeezed in "".join(old.split()) or not squeezed


def common_prefix(left: str, right: str) -> str:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return left[:length]


@given(st.data(), TEXTS, TEXTS)
def test_an_edit_and_its_reverse_are_identity(data: st.DataObject, text: str, new: str) -> None:
    newline = "\r\n" if "\r\n" in text else "\n"
    new = new.replace("\r\n", "\n").replace("\n", newline)
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    end = data.draw(st.integers(start, len(text)))
    old = text[start:end]
    assume(old and new and old != new and text.count(old) == 1)
    assume(not old.startswith("\n") or newline == "\n")
    assume(not old.endswith("\r"))
    try:
        edited = replace_text(text, old, new)
        restored = replace_text(edited.text, new, old)
    except ToolError:
        assume(False)
        return
    assume(edited.note == restored.note == "")
    assert restored.text == text


def test_numbered_lines() -> None:
    assert numbered_lines("a\r\nb\nc", 0, 9) == "     1\ta\n     2\tb\n     3\tc"
    assert split_lines("a\x0cb\u2028c\nd") == ["a\x0cb\u2028c\n", "d"]
