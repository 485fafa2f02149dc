"""How a conversation becomes a prompt and an answer becomes blocks, by model family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from qcode.engine.chat.prompt import PromptPiece
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Delta
from qcode.protocol.messages import Block
from qcode.protocol.tools import ToolSpec

__all__ = ["ChatTemplate", "PromptPiece", "ToolCallParser"]


class ToolCallParser(Protocol):
    """Reads one answer as it is written. Never raises: what is not a call is text."""

    def feed(self, text: str) -> Iterable[Delta]:
        """The deltas that `text` settles. Anything that may still turn out to be markup is held
        back, so a delta is never taken back."""
        ...

    def flush(self, *, truncated: bool = False) -> Iterable[Delta]:
        """The deltas that were held back; nothing may be fed afterwards. Calling it is optional."""
        ...

    def finish(self, *, truncated: bool = False) -> tuple[Block, ...]:
        """The whole answer, the same however it was split. `truncated` says that the answer was
        cut by its token limit. A call that did not come to its end is text, not a call, though
        deltas of it may have been sent."""
        ...


class ChatTemplate(Protocol):
    """One family's prompt format."""

    def render(self, request: ChatRequest) -> tuple[PromptPiece, ...]:
        """The prompt up to where the answer begins. A longer history extends the text of a
        shorter one. An assistant message with `raw` is rendered from it verbatim (`raw` is what
        the model wrote, without the token that ended its turn)."""
        ...

    def parser(self, tools: Sequence[ToolSpec]) -> ToolCallParser: ...
