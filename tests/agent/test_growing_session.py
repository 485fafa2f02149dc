"""What a session remembers of its own reading never changes what it says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.session import (
    CompactionEntry,
    OutputsDroppedEntry,
    RequestEntry,
    Session,
    conversation_digest,
    new_entry_id,
    replay,
    well_formed,
)
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("say", "call", "result", "drop", "summarise", "rewind", "ask")),
        st.integers(0, 30),
    ),
    max_size=25,
)


def take(session: Session, step: str, number: int) -> None:
    ids = [entry.id for entry in session.entries]
    some = ids[number % len(ids)] if ids else None
    match step:
        case "say":
            session.add(UserMessage(content=f"say {number}"))
        case "call":
            call = ToolCall(id=f"c{number}", name="read", arguments="{}")
            session.add(AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="m"))
        case "result":
            session.add(ToolMessage(call_id=f"c{number}", name="read", content=f"out {number}"))
        case "drop":
            session.append(
                OutputsDroppedEntry(
                    id=new_entry_id(), parent_id=session.head, entry_ids=tuple(ids[:number])
                )
            )
        case "summarise":
            session.append(
                CompactionEntry(
                    id=new_entry_id(),
                    parent_id=session.head,
                    summary=f"so far {number}",
                    first_kept_id=some,
                )
            )
        case "rewind":
            session.rewind(some)
        case "ask":
            session.add_request(ChatRequest(system="", messages=session.conversation()), "m")


def read_anew(session: Session) -> tuple[Message, ...]:
    return well_formed([entry.message for entry in replay(session.branch())])


@given(STEPS)
def test_reading_after_each_step_is_as_reading_once_at_the_end(
    steps: list[tuple[str, int]],
) -> None:
    session = Session(session_id="s")
    for step, number in steps:
        take(session, step, number)
        conversation = session.conversation()
        assert conversation == read_anew(session)
        request = ChatRequest(system="", messages=conversation)
        session.add_request(request, "m")
        asked = session.entries[-1]
        assert isinstance(asked, RequestEntry)
        assert asked.messages == conversation_digest(conversation)


def test_a_message_is_read_for_the_digest_once() -> None:
    """The digest of a conversation whose earlier messages can no longer be read."""
    session = Session(session_id="s")
    session.add(UserMessage(content="a"))
    conversation = session.conversation()
    session.add_request(ChatRequest(system="", messages=conversation), "m")
    before = conversation_digest((UserMessage(content="a"), UserMessage(content="b")))
    object.__setattr__(conversation[0], "content", "changed behind its back")
    session.add(UserMessage(content="b"))
    session.add_request(ChatRequest(system="", messages=session.conversation()), "m")
    asked = session.entries[-1]
    assert isinstance(asked, RequestEntry)
    assert asked.messages == before
