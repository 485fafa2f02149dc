"""Going round in circles is noticed; working on is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.answer import PartialAnswer
from qcode.agent.repetition import EndlessText, RepetitionGuard
from qcode.protocol.chunks import ToolCallDelta
from qcode.protocol.messages import ToolCall
from qcode.protocol.tools import ToolResult


def call(arguments: str = '{"a": 1}', name: str = "read_file") -> ToolCall:
    return ToolCall(id="x", name=name, arguments=arguments)


def test_the_spelling_of_the_arguments_does_not_matter() -> None:
    guard = RepetitionGuard()
    for arguments in ('{"a":1,"b":2}', '{"b": 2, "a": 1}'):
        assert guard.observe(call(arguments), ToolResult(content="same")) is None
    assert guard.observe(call('{ "a":1,"b":2}'), ToolResult(content="same")) is not None


def test_a_changing_result_is_no_repetition() -> None:
    guard = RepetitionGuard()
    for number in range(20):
        assert guard.refusal(call()) is None
        assert guard.observe(call(), ToolResult(content=str(number))) is None
    assert not guard.stopped(call())


def test_an_edit_done_and_undone_for_ever_is_stopped() -> None:
    guard = RepetitionGuard()
    there, back = call('{"to": "b"}', "edit"), call('{"to": "a"}', "edit")
    rounds = 0
    while not guard.stopped(there):
        rounds += 1
        assert rounds < 10
        for edit in (there, back):
            if guard.refusal(edit) is None:
                guard.observe(edit, ToolResult(content="ok", changed_files=("/f",)))
    assert rounds == 8


def fed(text: str, size: int) -> bool:
    endless = EndlessText()
    return any(endless.feed(text[i : i + size]) for i in range(0, len(text), size))


@given(st.text(min_size=1, max_size=80), st.integers(min_value=1, max_value=500))
def test_a_repeated_piece_is_noticed_however_it_is_split(piece: str, size: int) -> None:
    assert fed("A sane beginning. " + piece * (3_000 // len(piece) + 1), size)


def test_arguments_may_repeat_themselves_for_longer_but_not_for_ever() -> None:
    answer = PartialAnswer("m")
    zeros = ToolCallDelta(index=0, call_id="x", name="write_file", arguments="0, " * 100)
    assert not any(answer.feed(zeros) for _ in range(20))
    assert any(answer.feed(zeros) for _ in range(100))


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_sane_text_is_left_alone(size: int) -> None:
    table = "".join(f"| row {n} | {'x' * (n % 7)} | ok |\n" for n in range(200))
    code = "".join(f"    assert add({n}, {n + 1}) == {2 * n + 1}\n" for n in range(200))
    rule = "-" * 400
    assert not fed("\n".join([table, rule, code, rule, " " * 300, table]), size)
