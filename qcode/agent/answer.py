"""An answer while it comes in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from qcode.agent.repetition import EndlessText
from qcode.protocol.chunks import Chunk, ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    Message,
    ReasoningBlock,
    StopReason,
    TextBlock,
    ToolCall,
)

_ARGUMENT_PATIENCE = 10
HARNESS = "qcode"
"""The model name of messages that the program itself puts into the conversation."""


class PartialAnswer:
    """The text received so far, to be kept when the answer is broken off. Half-written calls are
    not kept: nothing may run or answer them."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.clear()

    def clear(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._endless = EndlessText()
        self._endless_arguments = EndlessText(patience=_ARGUMENT_PATIENCE)

    def feed(self, chunk: Chunk) -> bool:
        """True once the answer has become one endless repetition."""
        if isinstance(chunk, TextDelta):
            self._text.append(chunk.text)
            return self._endless.feed(chunk.text)
        if isinstance(chunk, ReasoningDelta):
            self._reasoning.append(chunk.text)
            return self._endless.feed(chunk.text)
        if isinstance(chunk, ToolCallDelta):
            return self._endless_arguments.feed(chunk.arguments)
        return False

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def has_text(self) -> bool:
        return bool(self.text.strip())

    def message(self, stop_reason: StopReason) -> AssistantMessage:
        blocks: list[Block] = []
        if self._reasoning:
            blocks.append(ReasoningBlock(text="".join(self._reasoning)))
        if self._text:
            blocks.append(TextBlock(text=self.text))
        return AssistantMessage(blocks=tuple(blocks), stop_reason=stop_reason, model=self._model)


def with_unique_call_ids(
    message: AssistantMessage, conversation: Sequence[Message]
) -> AssistantMessage:
    """Renames calls whose id is empty or was used before: an id stands for one call only."""
    taken = {
        call.id
        for earlier in conversation
        if isinstance(earlier, AssistantMessage)
        for call in earlier.tool_calls
    }
    blocks: list[Block] = []
    for block in message.blocks:
        if isinstance(block, ToolCall):
            if not block.id or block.id in taken:
                block = replace(block, id=f"call_{secrets.token_hex(6)}")
            taken.add(block.id)
        blocks.append(block)
    return replace(message, blocks=tuple(blocks))
