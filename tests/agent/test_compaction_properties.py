"""Whatever was said, a shortened conversation is well-formed, ends the same and is shorter."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.agent.compaction import Compactor
from qcode.agent.replay import NoModel
from qcode.agent.session import Session, well_formed
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.events import ContextCompacted, Event
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)

TEXTS = st.integers(0, 3_000).map(lambda length: "word " * (length // 5))


@st.composite
def steps(draw: st.DrawFn, number: int) -> list[Message]:
    """What one step leaves: a prompt, an answer, or calls with their results."""
    kind = draw(st.sampled_from(["user", "answer", "calls"]))
    if kind == "user":
        return [UserMessage(content=f"prompt {number} {draw(TEXTS)}")]
    text = TextBlock(text=f"text {number} {draw(TEXTS)}")
    if kind == "answer":
        return [AssistantMessage(blocks=(text,), stop_reason="end", model="m")]
    calls = tuple(
        ToolCall(id=f"{number}-{index}", name="read_file", arguments='{"file_path": "a"}')
        for index in range(draw(st.integers(1, 3)))
    )
    results = [
        ToolMessage(call_id=call.id, name=call.name, content=f"{call.id} {draw(TEXTS)}")
        for call in calls
    ]
    return [AssistantMessage(blocks=(text, *calls), stop_reason="tool_calls", model="m"), *results]


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    count = draw(st.integers(0, 30))
    return [message for number in range(count) for message in draw(steps(number))]


def shortened(conversation: list[Message]) -> tuple[Session, list[Event]]:
    session = Session(session_id="s")
    for message in conversation:
        session.add(message)
    events: list[Event] = []

    async def ask(request: ChatRequest) -> Completed:
        block = TextBlock(text="A summary.")
        return Completed(message=AssistantMessage(blocks=(block,), stop_reason="end", model="m"))

    async def run() -> None:
        request = ChatRequest(system="", messages=session.conversation())
        await Compactor(session, NoModel()).shorten(request, events.append, ask, force=True)

    asyncio.run(run())
    return session, events


@given(conversations())
@settings(max_examples=60, deadline=None)
def test_a_shortened_conversation_is_whole_and_ends_as_it_did(conversation: list[Message]) -> None:
    session, events = shortened(conversation)
    now = [entry.message for entry in session.message_entries()]
    assert well_formed(now) == tuple(now)
    assert conversation[-1:] == now[-1:] or (now and "A summary." in str(now[0]))
    kept = [message for message in now if message in conversation]
    assert [m for m in conversation if m in kept] == kept  # in the order they were said
    for compacted in (event for event in events if isinstance(event, ContextCompacted)):
        assert compacted.after_tokens < compacted.before_tokens


@given(conversations())
@settings(max_examples=30, deadline=None)
def test_the_newest_request_is_never_lost(conversation: list[Message]) -> None:
    session, _ = shortened(conversation)
    prompts = [m.content for m in conversation if isinstance(m, UserMessage)]
    if prompts:
        newest = prompts[-1].split()[:2]
        assert any(" ".join(newest) in str(message) for message in session.conversation())


@given(conversations())
@settings(max_examples=30, deadline=None)
def test_what_was_shortened_is_still_in_the_record(conversation: list[Message]) -> None:
    session, _ = shortened(conversation)
    stored = [entry.message for entry in session.entries if entry.type == "message"]
    assert stored == conversation
