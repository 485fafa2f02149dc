"""What is said: blocks, messages, usage."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from qcode.protocol.values import dataclass

StopReason = Literal["end", "tool_calls", "max_tokens", "cancelled", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningBlock:
    """Thinking. `details` is the JSON list in which a server gave it, where it wants that back
    as it came; `text` may then be empty."""

    text: str
    details: str = ""
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call as the model wrote it. `arguments` is JSON text, not yet validated."""

    id: str
    name: str
    arguments: str
    type: Literal["tool_call"] = "tool_call"


Block = TextBlock | ReasoningBlock | ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one or several requests. `cached_tokens` are the part of `input_tokens` reused."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMessage:
    content: str
    role: Literal["user"] = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantMessage:
    """One answer. `raw` is the exact model text, rendered again verbatim by a local template, so
    that the prompt prefix stays byte-stable; None where only the parsed form is known."""

    blocks: tuple[Block, ...]
    stop_reason: StopReason
    model: str
    usage: Usage = field(default_factory=Usage)
    raw: str | None = None
    role: Literal["assistant"] = "assistant"

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks if isinstance(block, TextBlock))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(block for block in self.blocks if isinstance(block, ToolCall))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolMessage:
    """The result of one call, as the model reads it."""

    call_id: str
    name: str
    content: str
    is_error: bool = False
    role: Literal["tool"] = "tool"


Message = UserMessage | AssistantMessage | ToolMessage
