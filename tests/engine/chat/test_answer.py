"""Answers read back: every form and damage models are known for, however the text is split."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence

import pytest
from conversations import TOOLS, conversations, prompt_text, tool_calls
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.chat.answer import AnswerParser
from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.qwen3_coder import Qwen3CoderTemplate
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Delta, TextDelta, ToolCallDelta
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    UserMessage,
)

Simple = tuple[str, ...]


def read(
    pieces: Sequence[str], *, truncated: bool = False, tools: bool = True
) -> tuple[tuple[Block, ...], list[Delta]]:
    ids = (f"id{number}" for number in itertools.count())
    parser = AnswerParser(TOOLS if tools else (), new_id=lambda: next(ids))
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.flush(truncated=truncated)
    return parser.finish(truncated=truncated), deltas


def simple(blocks: Sequence[Block]) -> list[Simple]:
    return [
        (block.name, block.arguments) if isinstance(block, ToolCall) else (block.text,)
        for block in blocks
    ]


def parsed(text: str, *, truncated: bool = False) -> list[Simple]:
    """What the whole text is read as; and read letter by letter it is the same."""
    blocks, deltas = read([text], truncated=truncated)
    assert read(list(text), truncated=truncated)[0] == blocks
    assert_deltas_agree(blocks, deltas)
    return simple(blocks)


def assert_deltas_agree(blocks: Sequence[Block], deltas: Sequence[Delta]) -> None:
    for call in blocks:
        if not isinstance(call, ToolCall):
            continue
        sent = [d for d in deltas if isinstance(d, ToolCallDelta) and d.call_id == call.id]
        assert [d.name for d in sent if d.name] == [call.name] == [sent[0].name]
        assert "".join(d.arguments for d in sent) == call.arguments


def xml(name: str, *parameters: tuple[str, str]) -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


READ_A = ("read_file", '{"path": "a.py"}')
CALL = xml("read_file", ("path", "a.py"))
BARE = CALL.removeprefix("<tool_call>\n")
SHOWN = xml("read_file", ("path", "x"), ("offset", "1"))


FORMS: dict[str, tuple[str, list[Simple]]] = {
    "plain text": ("Hello\n\nworld \n", [("Hello\n\nworld \n",)]),
    "a call": (CALL, [READ_A]),
    "text before and after": (f"Look:\n\n{CALL}\n\nDone.", [("Look:",), READ_A, ("Done.",)]),
    "several calls": (f"{CALL}\n{CALL}", [READ_A, READ_A]),
    "a value on the tag's line": (
        "<tool_call><function=read_file><parameter=path>a.py</parameter></function></tool_call>",
        [READ_A],
    ),
    "white space of values is kept": (
        xml("write_file", ("content", "\n  a\n\n"), ("path", " b ")),
        [("write_file", '{"content": "\\n  a\\n\\n", "path": " b "}')],
    ),
    "types by schema": (
        xml(
            "write_file",
            ("path", "123"),
            ("append", "True"),
            ("ratio", "0.50"),
            ("tags", '["a", 1]'),
            ("meta", "{'a': None}"),
            ("note", "None"),
        ),
        [
            (
                "write_file",
                '{"path": "123", "append": true, "ratio": 0.5, "tags": ["a", 1], '
                '"meta": {"a": null}, "note": null}',
            )
        ],
    ),
    "M1 no opening tag": (f"Now:\n{BARE}", [("Now:",), READ_A]),
    "M1 no opening tag, text after": (f"{BARE}\nDone.", [READ_A, ("Done.",)]),
    "M1 only at a line's start": (f"so {BARE}", [(f"so {BARE}",)]),
    "M1 only for tools that exist": (
        "<function=launch>\n</function>",
        [("<function=launch>\n</function>",)],
    ),
    "M2 no closing parameter before the next": (
        "<tool_call>\n<function=read_file>\n<parameter=path>\na.py\n<parameter=offset>\n3\n"
        "</parameter>\n</function>\n</tool_call>",
        [("read_file", '{"path": "a.py", "offset": 3}')],
    ),
    "M2 no closing parameter at the end": (
        "<tool_call>\n<function=read_file>\n<parameter=path>\na.py\n</function>\n</tool_call>",
        [READ_A],
    ),
    "M3 no closing function": (
        "<tool_call>\n<function=read_file>\n<parameter=path>\na.py\n</parameter>\n</tool_call>",
        [READ_A],
    ),
    "M3 no closing tool_call": (CALL.removesuffix("\n</tool_call>"), [READ_A]),
    "M3 nothing closed but the value": (
        CALL.removesuffix("\n</function>\n</tool_call>"),
        [READ_A],
    ),
    "M3 half a closing tag": (CALL.removesuffix("nction>\n</tool_call>"), [READ_A]),
    "M3 nothing closed before the next call": (
        CALL.removesuffix("\n</function>\n</tool_call>") + "\n" + CALL,
        [READ_A, READ_A],
    ),
    "M4 prose about the tag": (
        "Use <tool_call> and `<function=name>`.",
        [("Use <tool_call> and `<function=name>`.",)],
    ),
    "M4 template source": (
        "<tool_call>\n<function={{ name }}>\n</tool_call>",
        [("<tool_call>\n<function={{ name }}>\n</tool_call>",)],
    ),
    "M5 a closing tag in a value": (
        xml("write_file", ("content", "a </parameter> b\n</parameter>\nc"), ("path", "p")),
        [
            (
                "write_file",
                '{"content": "a </parameter> b\\n</parameter>\\nc", "path": "p"}',
            )
        ],
    ),
    "M5 a whole call in a value": (
        xml("write_file", ("path", "doc.md"), ("content", f"See\n{SHOWN}\nend")),
        [("write_file", json.dumps({"path": "doc.md", "content": f"See\n{SHOWN}\nend"}))],
    ),
    "M5 a value that is a call": (
        xml("write_file", ("path", "doc.md"), ("content", SHOWN)),
        [("write_file", json.dumps({"path": "doc.md", "content": SHOWN}))],
    ),
    "M5 an opener alone in a value": (
        xml("write_file", ("path", "p"), ("content", "x\n<parameter=foo>\ny")) + "\n" + CALL,
        [("write_file", json.dumps({"path": "p", "content": "x\n<parameter=foo>\ny"})), READ_A],
    ),
    "M6 Python literals": (
        xml("write_file", ("tags", "('a', 'b')"), ("meta", "\"{'a': 1}\"")),
        [("write_file", '{"tags": ["a", "b"], "meta": {"a": 1}}')],
    ),
    "M7 another case": (xml("Read_File", ("path", "a.py")), [READ_A]),
    "M7 quotes and spaces": (CALL.replace("=read_file", '= "read_file" '), [READ_A]),
    "M7 an unknown tool": (xml("launch", ("when", "now")), [("launch", '{"when": "now"}')]),
    "M7 an unknown parameter": (
        xml("read_file", ("path", "a.py"), ("colour", "1")),
        [("read_file", '{"path": "a.py", "colour": "1"}')],
    ),
    "M8 calls in a row without tags between": (
        f"<tool_call>\n{BARE.removesuffix('</tool_call>')}{BARE}",
        [READ_A, READ_A],
    ),
    "M9 the optional before the required": (
        xml("read_file", ("offset", "3"), ("path", "a.py")),
        [("read_file", '{"offset": 3, "path": "a.py"}')],
    ),
    "M10 long fractions": (
        xml("read_file", ("offset", "72.00000000000000000")),
        [("read_file", '{"offset": 72}')],
    ),
    "M11 JSON in the tags": (
        '<tool_call>\n{"name": "read_file", "arguments": {"path": "a.py"}}\n</tool_call>',
        [READ_A],
    ),
    "M12 no arguments": (xml("list_directory"), [("list_directory", "{}")]),
    "M13 spaces in tags": (
        "< tool_call >\n< function = read_file >\n< parameter = path >\na.py\n</ parameter >\n"
        "</ function >\n</ tool_call >",
        [READ_A],
    ),
    "a repeated parameter": (
        xml("read_file", ("path", "x"), ("path", "y")),
        [("read_file", '{"path": "x", "path": "y"}')],
    ),
    "a fence around a call": (f"```xml\n{CALL}\n```", [("```xml",), READ_A, ("```",)]),
    "thinking": (f"<think>\nhm\n\n</think>\n\n{CALL}", [("hm",), READ_A]),
    "thinking about calls": (f"<think>{CALL}</think>ok", [(CALL,), ("ok",)]),
    "thinking without end": ("<think>\nhm\n", [("hm",)]),
    "JSON, doubled braces": (
        '<tool_call>\n{{"name": "read_file", "arguments": {"path": "a.py"}}}\n</tool_call>',
        [READ_A],
    ),
    "JSON, all braces doubled": (
        '<tool_call>{{"name": "read_file", "arguments": {{"path": "a.py"}}}}</tool_call>ok',
        [READ_A, ("ok",)],
    ),
    "JSON, parameters for arguments": (
        '<tool_call>{"name": "read_file", "parameters": {"path": "a.py"}}</tool_call>',
        [READ_A],
    ),
    "JSON, arguments first": (
        '<tool_call>{"arguments": {"path": "a.py"}, "name": "read_file"}</tool_call>',
        [READ_A],
    ),
    "JSON, arguments as a string": (
        '<tool_call>{"name": "read_file", "arguments": "{\\"path\\": \\"a.py\\"}"}</tool_call>',
        [READ_A],
    ),
    "JSON, no arguments": (
        '<tool_call>{"name": "list_directory"}</tool_call>',
        [("list_directory", "{}")],
    ),
    "JSON, null arguments": (
        '<tool_call>{"name": "list_directory", "arguments": null}</tool_call>',
        [("list_directory", "{}")],
    ),
    "JSON, a list of calls": (
        '<tool_call>[{"name": "read_file", "arguments": {"path": "a.py"}},'
        ' {"name": "list_directory", "arguments": {}}]</tool_call>',
        [READ_A, ("list_directory", "{}")],
    ),
    "JSON, several in one block": (
        '<tool_call>\n{"name": "list_directory", "arguments": {}}\n'
        '{"name": "read_file", "arguments": {"path": "a.py"}}\n</tool_call>',
        [("list_directory", "{}"), READ_A],
    ),
    "JSON, Python's notation and trailing commas": (
        "<tool_call>{'name': 'write_file', 'arguments': "
        "{'path': 'it\\'s \"a\"', 'append': True, 'note': None,},}</tool_call>",
        [("write_file", '{"path": "it\'s \\"a\\"", "append": true, "note": null}')],
    ),
    "JSON, raw line ends in strings": (
        '<tool_call>{"name": "write_file", "arguments": {"content": "a\n\tb\\d"}}</tool_call>',
        [("write_file", '{"content": "a\\n\\tb\\\\d"}')],
    ),
    "JSON, the closing tag in a string": (
        '<tool_call>{"name": "read_file", "arguments": {"path": "</tool_call>"}}</tool_call>',
        [("read_file", '{"path": "</tool_call>"}')],
    ),
    "JSON, closing braces missing": (
        '<tool_call>{"name": "read_file", "arguments": {"path": "a.py"}</tool_call>',
        [READ_A],
    ),
    "JSON, nothing closed": (
        '<tool_call>{"name": "read_file", "arguments": {"path": "a.py"}',
        [READ_A],
    ),
    "JSON, in a fence in the tags": (
        '<tool_call>\n```json\n{"name": "read_file", "arguments": {"path": "a.py"}}\n```\n'
        "</tool_call>",
        [READ_A],
    ),
    "bare JSON": ('{"name": "read_file", "arguments": {"path": "a.py"}}', [READ_A]),
    "fenced JSON": (
        'I will.\n```json\n{"name": "read_file", "arguments": {"path": "a.py"}}\n```\nThen',
        [("I will.",), READ_A, ("Then",)],
    ),
    "bare doubled braces": (
        '{{"name": "read_file", "arguments": {"path": "a.py"}}}',
        [READ_A],
    ),
}
NOT_CALLS = [
    '{"name": "my-app", "version": "1.0"}',
    '```json\n{"name": "my-app", "arguments": {}}\n```\n',
    '{"name": "read_file", "description": "Read a file.", "parameters": {"type": "object"}}',
    '{"name": "read_file", "parameters": {"type": "object", "properties": {}}}',
    '[1, 2, 3]\n{"a": [{"name": "x"}]}\n',
    "{\n  not json\n}\n",
    "```python\n{'name': 1}\n```",
    "`{`\n```\n{{ x }}\n```",
    'say {"name": "read_file", "arguments": {}}',
    '{"name": "read_file", "arguments": {"path": "a',
    "a < b and <b> or </tool_call> end",
    "<tool_call>\n\n\nnothing here",
    '<tool_call>{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    "<tool_call>[1, 2]</tool_call>",
    "<tool_call",
    "<tool_call>",
    "<tool_call>\n<function=read",
]


@pytest.mark.parametrize("form", FORMS)
def test_forms_and_damages(form: str) -> None:
    text, expected = FORMS[form]
    assert parsed(text) == expected


@pytest.mark.parametrize("text", NOT_CALLS)
def test_what_is_not_a_call_is_text(text: str) -> None:
    assert parsed(text) == [(text,)]


@pytest.mark.parametrize("end", range(len("<tool_call>\n<function=read_file>") + 1, len(CALL)))
def test_a_call_cut_by_the_token_limit_is_not_made(end: int) -> None:
    text = CALL[:end]
    closed = "</function>" in text
    expected: list[Simple] = [READ_A] if closed else [(text.rstrip(),)]
    assert parsed(text, truncated=True) == expected


def test_a_value_that_never_ends_is_no_call() -> None:
    text = CALL[: CALL.index("\n</parameter>")]
    assert parsed(text) == [(text,)]


def test_broken_json_after_the_name_is_left_for_the_tool_to_refuse() -> None:
    text = '<tool_call>{"name": "read_file", "arguments": {"path": "say "hi""}}</tool_call>'
    ((name, arguments),) = parsed(text)
    assert name == "read_file"
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(arguments)


def test_without_tools_there_are_no_calls() -> None:
    blocks, _ = read([f"a\n{CALL}"], tools=False)
    assert blocks == (TextBlock(text=f"a\n{CALL}"),)


def test_a_value_streams_while_it_is_written() -> None:
    parser = AnswerParser(TOOLS)
    parser.feed("<tool_call>\n<function=write_file>\n<parameter=content>\n")
    pieces = [parser.feed("line of text\n") for _ in range(3)]
    assert all(pieces)
    json_parser = AnswerParser(TOOLS)
    json_parser.feed('<tool_call>{"name": "write_file", "arguments": {"content": "')
    json_pieces = [json_parser.feed("line of text\\n") for _ in range(3)]
    assert all(json_pieces)


def test_prose_is_not_held_back() -> None:
    parser = AnswerParser(TOOLS)
    said = "a < b, {x} and <tool_call> in prose"
    shown = [d.text for c in said for d in parser.feed(c) if isinstance(d, TextDelta)]
    assert "".join(shown) == said


def test_call_ids_are_unique() -> None:
    parsers = [AnswerParser(TOOLS), AnswerParser(TOOLS)]
    blocks = []
    for parser in parsers:
        parser.feed(CALL + CALL)
        blocks.extend(parser.finish())
    assert len({block.id for block in blocks if isinstance(block, ToolCall)}) == 4


def seconds(text: str) -> float:
    parser = AnswerParser(TOOLS)
    begun = time.process_time()
    parser.feed(text)
    parser.finish()
    return time.process_time() - begun


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        ("", "<"),
        ("", "{"),
        ("", "["),
        ("", "`"),
        ("", "\n{"),
        ("", "<tool_call>"),
        ("", "<tool_call>" + " " * 63),
        ("", "\n<function=read_file>"),
        ("", "```json\n"),
        ("", '[{"name": "read_file"},\n'),
        ("", '{"name": "read_file", "arguments": {"a": [\n'),
        (CALL[: CALL.index("a.py")], "<"),
        (CALL[: CALL.index("a.py")], "\n</parameter>\n"),
        (CALL[: CALL.index("a.py")], "<parameter=x>\n"),
    ],
)
def test_hostile_text_takes_time_in_proportion_to_its_length(start: str, unit: str) -> None:
    short, long = (start + unit * (size // len(unit)) for size in (10_000, 80_000))
    assert seconds(long) < 30 * seconds(short) + 0.2  # 8 is in proportion, 64 to the square


def test_what_grammars_wrote_is_read_to_the_letter() -> None:
    """Nothing in a value is taken for the markup of a damaged call."""
    value = "x\n<parameter=content>\ny\n</function>\n<parameter=path>\nz</parameter>"
    text = xml("write_file", ("path", value), ("content", ""))
    for pieces in ([text], list(text)):
        parser = AnswerParser(TOOLS, constrained=True)
        for piece in pieces:
            parser.feed(piece)
        (call,) = parser.finish()
        assert isinstance(call, ToolCall)
        assert json.loads(call.arguments) == {"path": value, "content": ""}


# Properties

FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<function=read_file>", "<function=write_file>"),
    *("<function=nothing>", "</function>", "<parameter=path>", "<parameter=content>"),
    *("<parameter=tags>", "</parameter>", "\n", "\n\n", " ", "text", "[", "]", "{", "}", ","),
    *('"name"', ": ", '"read_file"', '"arguments"', '"path"', "'", '"', "\\", "\\u00", "1.5"),
    *("True", "null", "```json\n", "```", "<", "</", "<think>", "</think>", "é😀", "\r\n"),
    *(CALL, BARE, '{"name": "read_file", "arguments": {"path": "a"}}'),
]
soups = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good answer with some characters dropped, doubled, swapped or cut off."""
    text, _ = FORMS[draw(st.sampled_from(sorted(FORMS)))]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        insert = draw(st.sampled_from(["", *FRAGMENTS]))
        text = text[:at] + insert + text[end:]
    return text


def split(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=600, deadline=None)
@given(soups | damaged(), st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_any_text_split_anywhere_is_read_the_same(
    text: str, cuts: list[int], truncated: bool
) -> None:
    whole, deltas = read([text], truncated=truncated)
    assert_deltas_agree(whole, deltas)
    assert read(split(text, cuts), truncated=truncated)[0] == whole
    assert read(list(text), truncated=truncated)[0] == whole
    if "{" not in text:  # calls in tags alone: their arguments are always JSON
        for call in whole:
            assert not isinstance(call, ToolCall) or isinstance(json.loads(call.arguments), dict)


def answer_of(template: HermesTemplate | Qwen3CoderTemplate, message: AssistantMessage) -> str:
    """The text a model would have written to be rendered like this."""
    question = (UserMessage(content="?"),)
    before = prompt_text(template, ChatRequest(system="", messages=question, tools=TOOLS))
    asked = ChatRequest(system="", messages=(*question, message), tools=TOOLS)
    whole = prompt_text(template, asked)
    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert whole.startswith(before)
    assert whole.endswith(end)
    return whole[len(before) : -len(end)]


MARKUP_FREE = st.text(st.characters(codec="utf-8", exclude_characters="<{[`"), max_size=12)


@pytest.mark.parametrize("template", [HermesTemplate(), Qwen3CoderTemplate()])
@settings(max_examples=150, deadline=None)
@given(text=MARKUP_FREE.map(str.strip), calls=st.lists(tool_calls(), max_size=3), data=st.data())
def test_what_is_rendered_is_read_back(
    template: HermesTemplate | Qwen3CoderTemplate,
    text: str,
    calls: list[ToolCall],
    data: st.DataObject,
) -> None:
    said = (TextBlock(text=text),) if text else ()
    message = AssistantMessage(blocks=(*said, *calls), stop_reason="end", model="m")
    answer = answer_of(template, message)
    cuts = data.draw(st.lists(st.integers(0, 999), max_size=9))
    blocks, _ = read(split(answer, cuts))
    assert [block.text for block in blocks if isinstance(block, TextBlock)] == [
        block.text for block in said
    ]
    found = [block for block in blocks if isinstance(block, ToolCall)]
    assert [call.name for call in found] == [call.name for call in calls]
    for call, original in zip(found, calls, strict=True):
        assert json.loads(call.arguments) == json.loads(original.arguments)


@settings(max_examples=100, deadline=None)
@given(conversations())
def test_json_calls_come_back_letter_by_letter(messages: tuple[Message, ...]) -> None:
    for message in messages:
        if isinstance(message, AssistantMessage) and message.tool_calls:
            only = AssistantMessage(blocks=message.tool_calls, stop_reason="end", model="m")
            blocks, _ = read([answer_of(HermesTemplate(), only)])
            assert simple(blocks) == simple(only.blocks)


def test_reasoning_is_a_block_of_its_own() -> None:
    blocks, _ = read(["<think>\na\n\nb\n</think>\n\nanswer"])
    assert blocks == (ReasoningBlock(text="a\n\nb"), TextBlock(text="answer"))
