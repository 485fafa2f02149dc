"""Deltas -> the events of an answer while it is written, for `--include-partial-messages`.

Each message starts, its blocks open and close one after the other, and it stops.
"""

from __future__ import annotations

from collections.abc import Callable

from qcode.protocol.chunks import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.messages import Usage

JsonObject = dict[str, object]


def usage_object(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
    }


class PartialMessages:
    """Hands each event to `emit`, in order."""

    def __init__(
        self, emit: Callable[[JsonObject], None], model: str, new_id: Callable[[], str]
    ) -> None:
        self._emit = emit
        self._model = model
        self._new_id = new_id
        self._id: str | None = None
        self._index = -1
        # The kind, and for a call its number, of the block that is not closed yet.
        self._block: tuple[str, int] | None = None

    def show(self, delta: Delta) -> None:
        if self._id is None:
            self._start()
        match delta:
            case TextDelta():
                self._open(("text", 0), {"type": "text", "text": ""})
                change: JsonObject = {"type": "text_delta", "text": delta.text}
            case ReasoningDelta():
                self._open(("thinking", 0), {"type": "thinking", "thinking": ""})
                change = {"type": "thinking_delta", "thinking": delta.text}
            case ToolCallDelta():
                call: JsonObject = {
                    "type": "tool_use",
                    "id": delta.call_id,
                    "name": delta.name,
                    "input": {},
                }
                self._open(("tool_use", delta.index), call)
                change = {"type": "input_json_delta", "partial_json": delta.arguments}
        self._emit({"type": "content_block_delta", "index": self._index, "delta": change})

    def end(self, *, stop_reason: str | None, usage: JsonObject) -> str | None:
        """Ends the message being written, and gives its id; None if there is none."""
        if self._id is None:
            return None
        self._close()
        delta = {"stop_reason": stop_reason}
        self._emit({"type": "message_delta", "delta": delta, "usage": usage})
        self._emit({"type": "message_stop"})
        ended, self._id = self._id, None
        return ended

    def _start(self) -> None:
        self._id = self._new_id()
        self._index = -1
        message: JsonObject = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "usage": usage_object(Usage()),
        }
        self._emit({"type": "message_start", "message": message})

    def _open(self, block: tuple[str, int], content: JsonObject) -> None:
        if self._block == block:
            return
        self._close()
        self._index += 1
        self._block = block
        start = {"type": "content_block_start", "index": self._index, "content_block": content}
        self._emit(start)

    def _close(self) -> None:
        if self._block is not None:
            self._emit({"type": "content_block_stop", "index": self._index})
            self._block = None
