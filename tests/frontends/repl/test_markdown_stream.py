"""Streamed Markdown is cut into blocks without losing or changing a character."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from qcode.frontends.repl.markdown_stream import MarkdownStream

TEXT = st.lists(
    st.sampled_from(
        ["a", "\n", "\n\n", "```", "```py\n", "~~~~", "# h\n", "- x\n", " ", "`", "    "]
    )
).map("".join)


def split_everywhere(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def blocks_of(pieces: list[str]) -> tuple[list[str], str]:
    stream = MarkdownStream()
    blocks = [block for piece in pieces for block in stream.feed(piece)]
    return blocks, stream.finish()


@given(TEXT, st.lists(st.integers(0, 500)))
def test_any_split_gives_the_same_blocks(text: str, cuts: list[int]) -> None:
    assert blocks_of(split_everywhere(text, cuts)) == blocks_of([text])


@given(TEXT)
def test_only_blank_lines_between_blocks_are_dropped(text: str) -> None:
    blocks, rest = blocks_of([text])
    kept = [line for line in ("".join(blocks) + rest).split("\n") if line.strip()]
    assert kept == [line for line in text.split("\n") if line.strip()]


def test_a_code_block_with_blank_lines_stays_whole() -> None:
    blocks, rest = blocks_of(["Before.\n\n```py\na = 1\n\nb = 2\n```\nafter"])
    assert blocks == ["Before.\n\n", "```py\na = 1\n\nb = 2\n```\n"]
    assert rest == "after"


def test_a_shorter_fence_does_not_close_a_longer_one() -> None:
    blocks, rest = blocks_of(["````\n```\n\nstill inside\n````\n"])
    assert blocks == ["````\n```\n\nstill inside\n````\n"]
    assert rest == ""
