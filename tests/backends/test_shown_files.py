from __future__ import annotations

import pytest

from qcode.backends.shown_files import MAX_CHARS, shown_files
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.messages import ToolMessage, UserMessage
from qcode.tools.text_lines import numbered_lines

FILE = 'def greet(name):\n\n    print(f"hello\\t{name}")\n'


def result(content: str, *, is_error: bool = False) -> ToolMessage:
    return ToolMessage(call_id="1", name="read_file", content=content, is_error=is_error)


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("tags", FILE),
        (None, FILE),
        ("json", 'def greet(name):\\n\\n    print(f\\"hello\\\\t{name}\\")\\n'),
    ],
)
def test_lines_lose_their_numbers_and_are_written_as_arguments_are(
    form: CallFormat | None, written: str
) -> None:
    shown = f"greet.py, 3 lines\n{numbered_lines(FILE, 1, 3)}\nThat is all of it."

    assert shown_files([result(shown)], form) == [written]


def test_the_latest_comes_last_and_what_is_no_file_is_left_out() -> None:
    first, second = numbered_lines(FILE, 1, 2), numbered_lines("x = 1\ny = 2\n" * 600, 1199, 1200)
    messages = (
        UserMessage(content=first),
        result(first),
        result("plain output\n12\tis one line only"),
        result(first, is_error=True),
        result(f"{second}\n...\n{first}"),
    )

    beginning = "def greet(name):\n"
    assert shown_files(messages, None) == [beginning, "x = 1\ny = 2\n", beginning]


def test_only_the_latest_texts_are_taken_where_there_are_many() -> None:
    line = "x" * 98 + "\n"
    messages = [result(numbered_lines(f"{number}{line * 400}", 1, 400)) for number in range(12)]

    texts = shown_files(messages, None)

    assert [text[:2] for text in texts] == ["7x", "8x", "9x", "10", "11"]
    assert sum(map(len, texts)) <= MAX_CHARS
