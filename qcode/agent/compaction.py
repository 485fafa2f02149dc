"""When and how history is shortened: old tool outputs first, then a summary by the model.

Nothing is removed from the session: the shortening is an entry like any other. It begins past
`max(0.7 W, W - 33 000)` tokens of a window W; the newest 20 000 tokens, or a quarter of a small
window, stay word for word. Attempts that gain nothing are given up after `MAX_FAILURES`, until
`W - 23 000` tokens (never below the first threshold) leave no choice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from qcode.agent.session import (
    CompactionEntry,
    MessageEntry,
    OutputsDroppedEntry,
    Session,
    dropped_output,
    new_entry_id,
)
from qcode.agent.system_prompt import load_prompt
from qcode.agent.token_counter import TokenCounter
from qcode.protocol.backends import Backend, ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.errors import BackendError
from qcode.protocol.events import ContextCompacted, Event, Notice
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.values import dataclass

Ask = Callable[[ChatRequest], Awaitable[Completed]]

MAX_FAILURES = 3
_SHORT_OUTPUT_CHARS = 300
_QUOTED_OUTPUT_CHARS = 2_000
_ASSUMED_WINDOW = 32_768  # only for a server that refused a request and never said its window


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortening:
    """What was done. `summarised` are the messages that a summary stands for now, `kept` those
    that still follow it."""

    shorter: bool = False
    summarised: tuple[Message, ...] = ()
    kept: tuple[Message, ...] = ()


def compaction_threshold(window: int) -> float:
    return max(0.7 * window, window - 33_000)


class Compactor:
    """Shortens one session for one model."""

    def __init__(self, session: Session, backend: Backend) -> None:
        self._session = session
        self._backend = backend
        self.counter = TokenCounter(backend)
        self._failures = 0

    @property
    def window(self) -> int | None:
        """Asked anew each time: some backends learn it with the first request."""
        return self._backend.model.context_window

    async def shorten(
        self,
        request: ChatRequest,
        emit: Callable[[Event], None],
        ask: Ask,
        *,
        force: bool = False,
    ) -> Shortening:
        """Shortens where `request`, the next one, nears the window, or (`force`) anyway. `ask`
        sends the model one request."""
        if not force and not self._is_near(self.counter.at_most(request)):
            return Shortening()
        before = await self.counter.count(request)
        if not force and not self._is_near(before):
            return Shortening()
        window = self.window or _ASSUMED_WINDOW
        keep = self._keep_tokens(window)
        dropped = self._drop_outputs(keep)
        after = await self._count_now(request)
        done = Shortening()
        if after > 0.5 * window or not dropped:
            try:
                done = await self._summarise(keep, window, emit, ask)
            except BackendError as error:
                emit(Notice(text=f"Could not summarise: {error.message}", level="warning"))
            after = await self._count_now(request)
        # A gain too small to matter counts as a failure, else each step would try again.
        self._failures = 0 if after < 0.9 * before else self._failures + 1
        if after < before:
            emit(ContextCompacted(before_tokens=before, after_tokens=after))
        return replace(done, shorter=after < before)

    async def _count_now(self, request: ChatRequest) -> int:
        return await self.counter.count(replace(request, messages=self._session.conversation()))

    def _is_near(self, num_tokens: int) -> bool:
        window = self.window
        if window is None:
            return False
        limit = compaction_threshold(window)
        if self._failures >= MAX_FAILURES:
            if self._failures >= 2 * MAX_FAILURES or window - 23_000 <= limit:
                return False
            limit = window - 23_000
        return num_tokens > limit

    def _keep_tokens(self, window: int) -> int:
        return min(20_000, window // 4)

    def _kept_from(self, entries: Sequence[MessageEntry], keep_tokens: int) -> int:
        """The index from which the entries fit into `keep_tokens`."""
        tokens = 0
        for index in range(len(entries) - 1, -1, -1):
            tokens += self.counter.estimate([entries[index].message])
            if tokens > keep_tokens:
                return index + 1
        return 0

    def _drop_outputs(self, keep_tokens: int) -> bool:
        entries = self._session.message_entries()
        old = entries[: self._kept_from(entries, keep_tokens)]
        ids = tuple(entry.id for entry in old if _is_droppable(entry.message))
        if ids:
            self._session.append(
                OutputsDroppedEntry(id=new_entry_id(), parent_id=self._session.head, entry_ids=ids)
            )
        return bool(ids)

    async def _summarise(
        self, keep_tokens: int, window: int, emit: Callable[[Event], None], ask: Ask
    ) -> Shortening:
        entries = self._session.message_entries()
        start = self._kept_from(entries, keep_tokens)
        # A result may not be parted from its call.
        while start < len(entries) and isinstance(entries[start].message, ToolMessage):
            start += 1
        old = [entry.message for entry in entries[:start]]
        if len(old) < 2:
            return Shortening()
        emit(Notice(text="Summarising the conversation to make room."))
        summary_tokens = min(20_000, window // 8)
        room = round((window - 2 * summary_tokens) / self.counter.tokens_per_char)
        completed = await ask(
            ChatRequest(
                system=load_prompt("compaction"),
                messages=(UserMessage(content=_shortened(_transcript(old), room)),),
                sampling=SamplingParams(max_tokens=summary_tokens),
            )
        )
        summary = completed.message.text.strip()
        if not summary:
            return Shortening()
        kept = [entry.message for entry in entries[start:]]
        self._session.append(
            CompactionEntry(
                id=new_entry_id(),
                parent_id=self._session.head,
                summary=_as_message(summary, old, kept),
                first_kept_id=entries[start].id if start < len(entries) else None,
            )
        )
        return Shortening(summarised=tuple(old), kept=tuple(kept))


def _is_droppable(message: Message) -> bool:
    return (
        isinstance(message, ToolMessage)
        and len(message.content) > _SHORT_OUTPUT_CHARS
        and message.content != dropped_output(message)
    )


def _as_message(summary: str, old: Sequence[Message], kept: Sequence[Message]) -> str:
    """The summary, and the newest request word for word unless it is still there."""
    text = f"Summary of the conversation so far, made to save room:\n\n{summary}"
    if any(isinstance(message, UserMessage) for message in kept):
        return text
    prompts = [message.content for message in old if isinstance(message, UserMessage)]
    if not prompts:
        return text
    return f"{text}\n\nThe newest request, word for word:\n\n{_shortened(prompts[-1], 8_000)}"


def _transcript(messages: Sequence[Message]) -> str:
    parts = []
    for message in messages:
        match message:
            case UserMessage():
                parts.append(f"[user]\n{message.content}")
            case AssistantMessage():
                if message.text:
                    parts.append(f"[agent]\n{message.text}")
                parts.extend(
                    f"[agent calls {call.name}]\n{_shortened(call.arguments, _QUOTED_OUTPUT_CHARS)}"
                    for call in message.tool_calls
                )
            case ToolMessage():
                content = _shortened(message.content, _QUOTED_OUTPUT_CHARS)
                parts.append(f"[result of {message.name}]\n{content}")
    return "\n\n".join(parts)


def _shortened(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    half = max(0, max_chars // 2)
    return f"{text[:half]}\n[...]\n{text[len(text) - half :]}"
