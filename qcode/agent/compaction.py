"""When and how history is shortened: old tool outputs first, then a summary by the model.

Nothing is removed from the session: the shortening is an entry like any other. Thresholds after
the reference on peers: past `max(0.7 W, W - 33 000)` tokens of a window W; the newest 20 000
tokens, or a quarter of a small window, stay word for word.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from qcode.agent.session import (
    CompactionEntry,
    MessageEntry,
    OutputsDroppedEntry,
    Session,
    dropped_output,
    new_entry_id,
)
from qcode.agent.system_prompt import load_prompt
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.errors import BackendError
from qcode.protocol.events import ContextCompacted, Event, Notice
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams

Ask = Callable[[ChatRequest], Awaitable[Completed]]

MAX_FAILURES = 3
_MESSAGE_OVERHEAD_CHARS = 20  # role marks of a chat template
_SHORT_OUTPUT_CHARS = 300
_QUOTED_OUTPUT_CHARS = 2_000
_ASSUMED_WINDOW = 32_768  # only for a server that refused a request and never said its window


class TokenEstimate:
    """Tokens from characters: a quarter at first, then as the last answers' usage showed."""

    def __init__(self) -> None:
        self.tokens_per_char = 0.25

    def observe(self, num_chars: int, num_tokens: int) -> None:
        """A server that reports nonsense must not lead us far astray, hence the bounds."""
        if num_chars >= 1_000 and num_tokens > 0:
            self.tokens_per_char = min(1.0, max(0.1, num_tokens / num_chars))

    def tokens(self, num_chars: int) -> int:
        return round(num_chars * self.tokens_per_char)


class Compactor:
    """Shortens one session for one model."""

    def __init__(self, session: Session, context_window: int | None) -> None:
        self._session = session
        self._window = context_window
        self._estimate = TokenEstimate()
        self._failures = 0

    def observe(self, request: ChatRequest, usage: Usage) -> None:
        """Learns from a finished request how many tokens its characters really were."""
        self._estimate.observe(_request_chars(request), usage.input_tokens)

    async def shorten(
        self,
        request: ChatRequest,
        emit: Callable[[Event], None],
        ask: Ask,
        *,
        force: bool = False,
    ) -> bool:
        """Shortens where `request`, the next one, nears the window, or (`force`) anyway. True
        when the conversation has become shorter. `ask` sends the model one request."""
        before = self._estimate.tokens(_request_chars(request))
        if not force and not self._is_near(before):
            return False
        window = self._window or _ASSUMED_WINDOW
        fixed = _request_chars(request) - _chars(request.messages)
        keep = self._keep_tokens(window)
        dropped = self._drop_outputs(keep)
        after = self._estimate.tokens(fixed + _chars(self._session.conversation()))
        if after > 0.5 * window or not dropped:
            try:
                await self._summarise(keep, window, emit, ask)
            except BackendError as error:
                emit(Notice(text=f"Could not summarise: {error.message}", level="warning"))
            after = self._estimate.tokens(fixed + _chars(self._session.conversation()))
        # A gain too small to matter counts as a failure, else each step would try again.
        self._failures = 0 if after < 0.9 * before else self._failures + 1
        if after < before:
            emit(ContextCompacted(before_tokens=before, after_tokens=after))
        return after < before

    def _is_near(self, num_tokens: int) -> bool:
        if self._window is None or self._failures >= MAX_FAILURES:
            return False
        return num_tokens > max(0.7 * self._window, self._window - 33_000)

    def _keep_tokens(self, window: int) -> int:
        return min(20_000, window // 4)

    def _kept_from(self, entries: Sequence[MessageEntry], keep_tokens: int) -> int:
        """The index from which the entries fit into `keep_tokens`."""
        tokens = 0
        for index in range(len(entries) - 1, -1, -1):
            tokens += self._estimate.tokens(_chars([entries[index].message]))
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
    ) -> None:
        entries = self._session.message_entries()
        start = self._kept_from(entries, keep_tokens)
        # A result may not be parted from its call.
        while start < len(entries) and isinstance(entries[start].message, ToolMessage):
            start += 1
        old = [entry.message for entry in entries[:start]]
        if len(old) < 2:
            return
        emit(Notice(text="Summarising the conversation to make room."))
        summary_tokens = min(20_000, window // 8)
        room = round((window - 2 * summary_tokens) / self._estimate.tokens_per_char)
        completed = await ask(
            ChatRequest(
                system=load_prompt("compaction"),
                messages=(UserMessage(content=_shortened(_transcript(old), room)),),
                sampling=SamplingParams(max_tokens=summary_tokens),
            )
        )
        summary = completed.message.text.strip()
        if not summary:
            return
        self._session.append(
            CompactionEntry(
                id=new_entry_id(),
                parent_id=self._session.head,
                summary=_as_message(summary, old, [entry.message for entry in entries[start:]]),
                first_kept_id=entries[start].id if start < len(entries) else None,
            )
        )


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


def _request_chars(request: ChatRequest) -> int:
    tools = sum(
        len(tool.name) + len(tool.description) + len(json.dumps(tool.schema))
        for tool in request.tools
    )
    return len(request.system) + tools + _chars(request.messages)


def _chars(messages: Sequence[Message]) -> int:
    return sum(_MESSAGE_OVERHEAD_CHARS + _message_chars(message) for message in messages)


def _message_chars(message: Message) -> int:
    if not isinstance(message, AssistantMessage):
        return len(message.content)
    num_chars = 0
    for block in message.blocks:
        if isinstance(block, ToolCall):
            num_chars += len(block.name) + len(block.arguments) + _MESSAGE_OVERHEAD_CHARS
        elif isinstance(block, TextBlock):
            num_chars += len(block.text)
    return num_chars
