from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.sandbox.terminal_text import printable


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("größe 日本 🎉", "größe 日本 🎉"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[?1049h\x1b[2Jgone", "gone"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]52;c;ZXZpbA==\x1b\\x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cx", "x"),
        ("\x1b]0;never closed, must stay visible", "]0;never closed, must stay visible"),
        ("\x1bcreset", "reset"),
        ("\x1b(0charset", "charset"),
        ("a\x00b\x07c\x08d\x7fe\x85f", "abcdef"),
        ("one\r\ntwo\rthree", "one\ntwothree"),
        ("safe\u202etxt.exe", "safe<U+202E>txt.exe"),
        ("a\u200bb\u2066c\ufeff", "a<U+200B>b<U+2066>c<U+FEFF>"),
        ("a\u2028b", "a<U+2028>b"),
        ("tag\U000e0041", "tag<U+E0041>"),
        (b"bad \xff byte".decode("utf-8", "surrogateescape"), "bad \\xff byte"),
        ("lone \ud800", "lone <U+D800>"),
    ],
)
def test_what_a_terminal_may_see(foreign: str, shown: str) -> None:
    assert printable(foreign) == shown


def test_long_lines_are_cut_and_short_ones_beside_them_kept() -> None:
    assert printable("ab\n" + "x" * 30 + "\ncd", max_line=20) == (
        "ab\n" + "x" * 20 + "… [10 more characters]\ncd"
    )


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[]\x9b\x07;m\\P0")))
def test_nothing_but_readable_characters_comes_out(text: str) -> None:
    shown = printable(text)
    assert all(
        character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
        for character in shown
    )
    assert printable(shown) == shown
