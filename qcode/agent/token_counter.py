"""How many tokens a request has: by the model's own vocabulary where the backend has it, else by
characters, at the rate that the answers' usage shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from qcode.protocol.backends import ChatRequest, CountsTokens
from qcode.protocol.errors import QcodeError
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    Usage,
)

OVERHEAD_CHARS = 20  # role marks of a chat template around one message
_TEMPLATE_BYTES = 4_096  # what a template says of its own, generously
_MESSAGE_BYTES = 128
_LEARN_FROM_CHARS = 1_000


class TokenCounter:
    """One session's counting for one model. The first rate, a token for four characters, is that
    of English prose."""

    def __init__(self, backend: object = None) -> None:
        self._exact: CountsTokens | None = backend if isinstance(backend, CountsTokens) else None
        self.tokens_per_char = 0.25
        self._counted: tuple[ChatRequest | None, int] = (None, 0)

    @property
    def is_exact(self) -> bool:
        return self._exact is not None

    def observe(self, request: ChatRequest, usage: Usage) -> None:
        """Learns from a finished request what its characters were in tokens."""
        self._learn(self._num_chars(request), usage.input_tokens)

    def _learn(self, num_chars: int, num_tokens: int) -> None:
        """A server that reports nonsense must not lead us far astray, hence the bounds."""
        if num_chars >= _LEARN_FROM_CHARS and num_tokens > 0:
            self.tokens_per_char = min(1.0, max(0.1, num_tokens / num_chars))

    async def count(self, request: ChatRequest) -> int:
        return await asyncio.to_thread(self.count_blocking, request)

    def count_blocking(self, request: ChatRequest) -> int:
        num_chars = self._num_chars(request)
        if self._exact is not None:
            try:
                exact = self._exact.count_tokens(request)
            except QcodeError:  # the request itself will say what is wrong with the model
                self._exact = None
            else:
                self._learn(num_chars, exact)
                return exact
        return self.tokens(num_chars)

    def _num_chars(self, request: ChatRequest) -> int:
        """Each step counts its request before it is sent and when its answer is there."""
        counted, num_chars = self._counted
        if counted is None or not _is_same(counted, request):
            num_chars = request_chars(request)
            self._counted = (request, num_chars)
        return num_chars

    def tokens(self, num_chars: int) -> int:
        return round(num_chars * self.tokens_per_char)

    def estimate(self, messages: Sequence[Message]) -> int:
        """Of some messages by themselves, at the present rate."""
        return self.tokens(chars(messages))

    def at_most(self, request: ChatRequest) -> int:
        """What the request cannot exceed, found without reading it: where the vocabulary is at
        hand, since no token is shorter than a byte; else the estimate itself."""
        num_chars = self._num_chars(request)
        if self._exact is None:
            return self.tokens(num_chars)
        return 4 * num_chars + _TEMPLATE_BYTES + _MESSAGE_BYTES * len(request.messages)


def _is_same(one: ChatRequest, other: ChatRequest) -> bool:
    same_parts = one.messages is other.messages and one.tools is other.tools
    return same_parts and one.system == other.system


def request_chars(request: ChatRequest) -> int:
    tools = sum(
        len(tool.name) + len(tool.description) + len(json.dumps(tool.schema))
        for tool in request.tools
    )
    return len(request.system) + tools + chars(request.messages)


def chars(messages: Sequence[Message]) -> int:
    return sum(OVERHEAD_CHARS + _message_chars(message) for message in messages)


def _message_chars(message: Message) -> int:
    if not isinstance(message, AssistantMessage):
        return len(message.content)
    num_chars = 0
    for block in message.blocks:
        if isinstance(block, ToolCall):
            num_chars += len(block.name) + len(block.arguments) + OVERHEAD_CHARS
        elif isinstance(block, TextBlock | ReasoningBlock):
            num_chars += len(block.text)
    return num_chars
