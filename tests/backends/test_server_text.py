"""Calls a server left in the text: found where the model speaks, never in what it quotes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.backends.server_text import ServerText
from qcode.engine.chat.answer import AnswerParser
from qcode.protocol.chunks import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.messages import Block, ReasoningBlock, TextBlock, ToolCall
from qcode.protocol.tools import ToolSpec

READ_FILE = ToolSpec(
    name="read_file",
    description="Read a file.",
    schema={"type": "object", "properties": {"path": {"type": "string"}}},
)
JSON_CALL = '{"name": "read_file", "arguments": {"path": "a.py"}}'
TAGGED = f"<tool_call>\n{JSON_CALL}\n</tool_call>"
BARE_XML = "<function=read_file>\n<parameter=path>\na.py\n</parameter>\n</function>"
XML = f"<tool_call>\n{BARE_XML}\n</tool_call>"
CALLS = (JSON_CALL, TAGGED, XML, BARE_XML)


def read(pieces: list[str], *, fenced_calls: bool = False) -> tuple[tuple[Block, ...], list[Delta]]:
    text = ServerText([READ_FILE], fenced_calls=fenced_calls)
    deltas = [delta for piece in pieces for delta in text.feed(piece)]
    last, blocks = text.finish(truncated=False)
    return blocks, deltas + last


def plain(blocks: tuple[Block, ...]) -> list[tuple[str, str]]:
    return [
        (block.name, block.arguments) if isinstance(block, ToolCall) else (block.type, block.text)
        for block in blocks
    ]


def splits(text: str) -> list[list[str]]:
    return [[text], list(text), text.splitlines(keepends=True)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", ["", "Let me look.\n\n", "Run `ls` first:\n", "`x`\n"])
def test_a_call_the_model_makes_is_found(before: str, call: str) -> None:
    for pieces in splits(before + call):
        blocks, _ = read(pieces)
        assert plain(blocks)[-1] == ("read_file", '{"path": "a.py"}')


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "quotation",
    [
        "An example:\n```xml\n{}\n```\nThat is all.",
        "An example:\n```\n{}\n```",
        "```\n{}\n",
        "~~~~json\n{}\n```\n~~~~\nDone.",
        "````md\n```\n{}\n```\n````\nDone.",
        "   ```\n{}\n   ```  \n",
        "It prints `{}` then.",
        "It prints ``a ` {}`` then.",
    ],
)
def test_a_call_in_quoted_text_is_text(quotation: str, call: str) -> None:
    if "`{}" in quotation or "` {}" in quotation:
        call = call.replace("\n", " ")
    text = quotation.replace("{}", call)
    for pieces in splits(text):
        blocks, deltas = read(pieces)
        assert plain(blocks) == [("text", text)]
        assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == text


@pytest.mark.parametrize("call", CALLS)
def test_a_call_in_a_block_quotation_is_text(call: str) -> None:
    text = "The file says:\n" + "".join(f"> {line}\n" for line in call.split("\n")) + "Odd."
    for pieces in splits(text):
        assert plain(read(pieces)[0]) == [("text", text)]


@pytest.mark.parametrize("quote", ['"', "'", "“"])
def test_a_call_after_a_quotation_mark_is_text(quote: str) -> None:
    text = f"The log has {quote}<tool_call>{JSON_CALL}</tool_call>{quote} in it."
    for pieces in splits(text):
        assert plain(read(pieces)[0]) == [("text", text)]


def test_a_call_follows_a_quotation() -> None:
    text = f"```py\nx = [1]\n```\nNow:\n{TAGGED}"
    for pieces in splits(text):
        assert plain(read(pieces)[0]) == [
            ("text", "```py\nx = [1]\n```\nNow:"),
            ("read_file", '{"path": "a.py"}'),
        ]


def test_code_spans_as_long_as_a_fence_open_no_block() -> None:
    text = f"```x``` is code.\n{TAGGED}"
    for pieces in splits(text):
        assert [kind for kind, _ in plain(read(pieces)[0])] == ["text", "read_file"]


def test_fences_and_spans_in_a_call_are_its_content() -> None:
    value = '```\n`a\n~~~\n> "<b>" {x}'
    text = f"<function=read_file>\n<parameter=path>\n{value}\n</parameter>\n</function>\nand `on`"
    for pieces in splits(text):
        blocks, _ = read(pieces)
        assert isinstance(blocks[0], ToolCall)
        assert plain(blocks[1:]) == [("text", "and `on`")]
        assert value.replace("\n", "\\n").replace('"', '\\"') in blocks[0].arguments


def test_a_fence_left_open_in_thinking_ends_with_it() -> None:
    text = f"<think>\n```\nhm\n</think>\n\n{TAGGED}"
    for pieces in splits(text):
        blocks, _ = read(pieces)
        assert blocks[0] == ReasoningBlock(text="```\nhm")
        assert plain(blocks)[1] == ("read_file", '{"path": "a.py"}')


def test_models_that_fence_their_calls_can_be_allowed_to() -> None:
    text = f"```json\n{JSON_CALL}\n```"
    assert plain(read([text])[0]) == [("text", text)]
    assert plain(read([text], fenced_calls=True)[0]) == [("read_file", '{"path": "a.py"}')]


def test_without_tools_nothing_is_changed() -> None:
    text = ServerText([])
    deltas = text.feed("`\ufdd0` " + TAGGED)
    last, blocks = text.finish(truncated=False)
    assert blocks == (TextBlock(text="`\ufdd0` " + TAGGED),)
    assert len(deltas + last) == 1


MARKS = (*'`>\n <"{[x', "``", "```", "~~~", "<think>", "</think>", "</tool_call>", "<tool_call>")
PIECES = st.lists(
    st.sampled_from((*MARKS, TAGGED, JSON_CALL, BARE_XML, "é\r\n", "\ufdd0")), max_size=12
)


@given(PIECES, st.data())
def test_blocks_do_not_depend_on_the_split(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, _ = read([text])
    for split in (pieces, list(text)):
        blocks, deltas = read(split)
        assert plain(blocks) == plain(whole)
        for kind, block in ((TextDelta, TextBlock), (ReasoningDelta, ReasoningBlock)):
            shown = "".join(d.text for d in deltas if isinstance(d, kind))
            written = "".join(b.text for b in blocks if isinstance(b, block))
            assert shown.split() == written.split() or any(
                isinstance(d, ToolCallDelta) for d in deltas
            )


@given(st.lists(st.sampled_from(["a", " ", "\n", "<", "é", TAGGED, "1. "]), max_size=10))
def test_unquoted_text_is_read_as_the_parser_reads_it(parts: list[str]) -> None:
    text = "".join(parts)
    parser = AnswerParser([READ_FILE])
    parser.feed(text)
    assert plain(read(list(text))[0]) == plain(parser.finish())
