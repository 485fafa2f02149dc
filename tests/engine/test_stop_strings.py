"""Where an answer is cut does not depend on how its text arrives."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qcode.engine.sampling.stop_strings import StopStrings


@given(
    text=st.text("ab<", max_size=40),
    strings=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_stop_strings_cut_alike_however_the_text_is_split(
    text: str, strings: list[str], cuts: list[int]
) -> None:
    found = [(text.find(s) + len(s), text.find(s)) for s in strings if s in text]
    matcher = StopStrings(strings)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]

    pieces = [matcher.feed(text[start:end]) for start, end in pairwise(borders)]

    assert matcher.is_found == bool(found)
    end = min(found)[1] if found else len(text)
    assert "".join(pieces) + matcher.flush() == text[:end]
