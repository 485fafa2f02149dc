"""Replay: what a model is shown of a stored conversation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.session import (
    INTERRUPTED,
    CompactionEntry,
    MessageEntry,
    OutputsDroppedEntry,
    Session,
    well_formed,
)
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)


def user(text: str) -> UserMessage:
    return UserMessage(content=text)


def answer(text: str) -> AssistantMessage:
    return AssistantMessage(blocks=(TextBlock(text=text),), stop_reason="end", model="m")


def asks(*ids: str) -> AssistantMessage:
    blocks = tuple(ToolCall(id=call_id, name="read_file", arguments="{}") for call_id in ids)
    return AssistantMessage(blocks=blocks, stop_reason="tool_calls", model="m")


def result(call_id: str, content: str = "out") -> ToolMessage:
    return ToolMessage(call_id=call_id, name="read_file", content=content)


def interrupted(call_id: str) -> ToolMessage:
    return ToolMessage(call_id=call_id, name="read_file", content=INTERRUPTED, is_error=True)


def session_of(*messages: Message) -> Session:
    session = Session(session_id="s")
    for message in messages:
        session.add(message)
    return session


def test_a_conversation_is_its_messages_in_order() -> None:
    messages = (user("hi"), asks("1"), result("1"), answer("done"))
    session = session_of(*messages)
    assert session.conversation() == messages
    assert session.title == "hi"


def test_unanswered_calls_get_a_result_that_says_so() -> None:
    session = session_of(user("hi"), asks("1", "2"), result("2"), user("go on"))
    assert session.conversation() == (
        user("hi"),
        asks("1", "2"),
        interrupted("1"),
        result("2"),
        user("go on"),
    )


def test_results_without_a_call_are_not_shown() -> None:
    assert session_of(user("hi"), result("9"), answer("x")).conversation() == (
        user("hi"),
        answer("x"),
    )


MESSAGES = st.lists(
    st.sampled_from([user("u"), answer("a"), asks("1"), asks("1", "2"), result("1"), result("2")]),
    max_size=12,
)


@given(MESSAGES)
def test_any_history_is_well_formed_after_replay(messages: list[Message]) -> None:
    shown = well_formed(messages)
    open_calls: list[str] = []
    for message in shown:
        if isinstance(message, ToolMessage):
            assert open_calls.pop(0) == message.call_id
        else:
            assert open_calls == []
            if isinstance(message, AssistantMessage):
                open_calls = [call.id for call in message.tool_calls]
    assert open_calls == []
    assert well_formed(shown) == shown
    assert [m for m in shown if not isinstance(m, ToolMessage)] == [
        m for m in messages if not isinstance(m, ToolMessage)
    ]


def test_a_summary_replaces_what_came_before_the_first_kept_entry() -> None:
    session = session_of(user("one"), answer("1"), user("two"), answer("2"))
    kept = session.message_entries()[2].id
    session.append(
        CompactionEntry(id="c", parent_id=session.head, summary="so far", first_kept_id=kept)
    )
    session.add(user("three"))
    assert session.conversation() == (user("so far"), user("two"), answer("2"), user("three"))


def test_a_second_summary_replaces_the_first() -> None:
    session = session_of(user("one"))
    for number in (1, 2):
        session.append(
            CompactionEntry(
                id=f"c{number}", parent_id=session.head, summary=f"s{number}", first_kept_id=None
            )
        )
    assert session.conversation() == (user("s2"),)


def test_dropped_outputs_leave_one_line_and_the_file_keeps_all() -> None:
    session = session_of(user("hi"), asks("1"), result("1", "long\n" * 99))
    dropped = session.message_entries()[2].id
    session.append(OutputsDroppedEntry(id="d", parent_id=session.head, entry_ids=(dropped,)))
    shown = session.conversation()[2]
    assert isinstance(shown, ToolMessage)
    assert "\n" not in shown.content
    assert "read_file" in shown.content
    assert any(
        isinstance(entry, MessageEntry) and entry.message == result("1", "long\n" * 99)
        for entry in session.entries
    )


def test_rewinding_goes_on_from_an_earlier_entry_without_removing_anything() -> None:
    session = session_of(user("one"), answer("1"), user("two"))
    session.rewind(session.entries[1].id)
    session.add(user("other"))
    assert session.conversation() == (user("one"), answer("1"), user("other"))
    assert len(session.entries) == 4
    session.rewind(None)
    assert session.conversation() == ()


def test_rewinding_to_an_unknown_entry_is_refused() -> None:
    with pytest.raises(KeyError):
        session_of(user("one")).rewind("nowhere")


def test_a_lost_parent_is_replaced_by_the_entry_before() -> None:
    entries = [
        MessageEntry(id="a", parent_id=None, message=user("one")),
        MessageEntry(id="c", parent_id="lost", message=user("three")),
    ]
    session = Session(session_id="s", entries=entries)
    assert session.conversation() == (user("one"), user("three"))
