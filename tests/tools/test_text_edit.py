from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.protocol.errors import ToolError
from qcode.tools.text_edit import replace_text
from qcode.tools.text_lines import numbered_lines, split_lines

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
        ("a\r\nb\nc\r\n", "a\nb\nc", "a\nb\nx", "a\r\nb\nx\r\n"),  # lines that stay, stay
        ("a\r\nb\r\n", "\nb", "c", "ac\r\n"),  # never half of a CRLF
        ("a\nb\na\r\nb\r\n", "a\r\nb", "a\r\nc", "a\nb\na\r\nc\r\n"),  # exact goes first
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


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        # Tabs in the file: what is deeper than all that is known is in tabs too.
        ("if b:\n    c()", "if b:\n    if d:\n        c()", "\tif b:\n\t\tif d:\n\t\t\tc()\n"),
        # Lines that stay are the file's own, spacing and all.
        ("if b:\n    c()", "if b:\n    c()\n    d()", "\tif b:\n\t\tc()\n\t\td()\n"),
        # Blank lines are added and kept only where they are meant.
        ("\nif b:\n  c()\n", "\nif b:\n\n  c()\n\n", "\tif b:\n\n\t\tc()\n\n"),
    ],
)
def test_indentation_in_a_file_with_tabs(old: str, new: str, result: str) -> None:
    text = "if a:\n\tif b:\n\t\tc()\n"
    assert replace_text(text, old, new).text == "if a:\n" + result


def test_where_a_line_belongs_is_never_guessed() -> None:
    flat = "if x:\nreturn 1\nreturn 2"
    with pytest.raises(ToolError, match="where the new lines belong is not clear"):
        replace_text(CODE, flat, "if x:\nlog()\nreturn 1\nreturn 2")
    in_place = replace_text(CODE, flat, "if x:\nreturn 5\nreturn 2")
    assert in_place.text == CODE.replace("return 1", "return 5")


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        (  # around the change the file keeps its characters
            "say(“it’s – here”)  # “x”\n",
            'say("it\'s - here")',
            'say("it\'s - there")',
            "say(“it’s – there”)  # “x”\n",
        ),
        ("a = 'x'\n", "a = ‘x’", "a = ‘y’", "a = 'y'\n"),
        ("“a”\r\n—b\r\n", '"a"\n-b', '"a"\nc\n-b', "“a”\r\nc\r\n—b\r\n"),
        ("x = “a”\n", 'x = "a"', 'y = "a"', "y = “a”\n"),
    ],
)
def test_quotes_and_dashes_are_taken_alike(text: str, old: str, new: str, result: str) -> None:
    edit = replace_text(text, old, new)
    assert edit.text == result
    assert "typographic" in edit.note


def test_several_matches_up_to_quotes_are_never_chosen_among() -> None:
    with pytest.raises(ToolError, match="matches 2 places: lines 1, 2"):
        replace_text("“a”\n„a“\n", '"a"', "b")
    edit = replace_text("“a”\n„a“\n", '"a"', '"b"', replace_all=True)
    assert (edit.text, edit.replacements) == ("“b”\n„b“\n", 2)


def test_copied_line_numbers_are_pointed_out() -> None:
    with pytest.raises(ToolError, match="leave out the line numbers"):
        replace_text(CODE, "     2\t    if x:\n     3\t        return 1", "x")


def test_several_matches_up_to_spacing_are_never_chosen_among() -> None:
    with pytest.raises(ToolError, match="only in spacing: lines 1, 3"):
        replace_text("a( 1 )\nb\n  a( 1 )\n", "a(  1 )", "c")


PARTS = ("a", "b", "  a", "\tb", "", "c d", "é", "“a”", '"a"', "x – y", "x - y", "if x:", "\ufeffa")
MIXED = st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(["\n", "\r\n"])), max_size=12)


def joined(lines: list[tuple[str, str]], final: bool) -> str:
    text = "".join(part + newline for part, newline in lines)
    return text if final else text.rstrip("\r\n")


TEXTS = st.builds(joined, MIXED, st.booleans())
UNIFORM = st.builds(
    lambda text, newline: text.replace("\r\n", "\n").replace("\n", newline),
    TEXTS,
    st.sampled_from(["\n", "\r\n"]),
)


def folded(text: str) -> str:
    """What the ladder takes alike, taken alike: spacing, newlines, quotes and dashes."""
    return "".join(text.translate(str.maketrans("“”–", '""-')).split())


@st.composite
def pieces_of(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, str]:
    """A text, and a piece of it in other spacing, newlines or quotes perhaps."""
    text = draw(texts)
    lines = split_lines(text)
    start = draw(st.integers(0, len(lines)))
    piece = "".join(lines[start : start + draw(st.integers(0, 4))])
    if draw(st.booleans()):
        at = draw(st.integers(0, len(piece)))
        piece = piece[at : draw(st.integers(at, len(piece)))]
    for found, put in draw(
        st.lists(
            st.sampled_from([("\r\n", "\n"), ("“", '"'), ("–", "-"), ("  ", ""), ("\t", "    ")])
        )
    ):
        piece = piece.replace(found, put)
    return text, piece


@settings(max_examples=400)
@given(pieces_of(TEXTS) | st.tuples(TEXTS, TEXTS), TEXTS)
def test_one_unique_match_or_a_refusal(text_and_old: tuple[str, str], new: str) -> None:
    text, old = text_and_old
    try:
        edit = replace_text(text, old, new)
    except ToolError:
        return
    assert text.count(old) <= 1
    assert edit.first_line <= edit.last_line
    assert any(
        # What goes was asked for, what comes was given, and not one byte around them differs.
        folded(edit.text) == folded(before) + folded(new) + folded(after)
        and edit.text.startswith(before.rstrip())
        and edit.text.endswith(after.lstrip())
        for before, after in matches(text, old)
    )


def matches(text: str, old: str) -> Iterator[tuple[str, str]]:
    """What stands before and after each place in `text` that folds to what `old` folds to."""
    solid = [at for at, char in enumerate(text) if not char.isspace()]
    whole, wanted = folded(text), folded(old)
    for at in range(len(whole) - len(wanted) + 1):
        if not wanted:
            yield from ((text[:at], text[at + len(old) :]) for at in range(len(text)))
        elif whole.startswith(wanted, at):
            yield text[: solid[at]], text[solid[at + len(wanted) - 1] + 1 :]


@given(pieces_of(UNIFORM), TEXTS)
def test_an_edit_and_its_reverse_are_identity(text_and_old: tuple[str, str], new: str) -> None:
    text, old = text_and_old
    if "\n" not in text:
        return  # nothing says which newlines the file should have
    try:
        edited = replace_text(text, old, new)
        restored = replace_text(edited.text, new, old)
    except ToolError:
        return
    if "\n" not in edited.text and "\r\n" in text and "\r\n" not in old:
        return  # the last newline went, and nothing says any more which it was
    if not edited.note and not restored.note:
        assert restored.text == text


@given(pieces_of(TEXTS), st.sampled_from(["x", "", "yy", "“"]))
def test_a_change_within_a_line_is_undone_in_a_file_of_mixed_newlines(
    text_and_old: tuple[str, str], new: str
) -> None:
    text, old = text_and_old
    if "\n" in old:
        return
    try:
        edited = replace_text(text, old, new)
        restored = replace_text(edited.text, new, old)
    except ToolError:
        return
    if not edited.note and not restored.note:
        assert restored.text == text


@given(pieces_of(TEXTS), TEXTS)
def test_an_exact_and_unique_piece_is_always_found(text_and_old: tuple[str, str], new: str) -> None:
    text, old = text_and_old
    if not old or text.count(old) != 1 or old.endswith("\r"):
        return
    if "\r" + old in text and old.startswith("\n"):
        return  # half of a CRLF
    if old.replace("\r\n", "\n") == new.replace("\r\n", "\n"):
        return
    edit = replace_text(text, old, new)
    assert edit.note == ""
    assert edit.text.replace("\r\n", "\n") == text.replace(old, new).replace("\r\n", "\n")


def test_numbered_lines() -> None:
    assert numbered_lines("a\r\nb\nc", 0, 9) == "     1\ta\n     2\tb\n     3\tc"
    assert split_lines("a\x0cb\u2028c\nd") == ["a\x0cb\u2028c\n", "d"]
