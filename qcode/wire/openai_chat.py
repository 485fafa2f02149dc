"""Answers in the Chat Completions format, in both directions: a client decodes the stream that a
server encodes. Decoding forgives what servers are known to send; encoding gives only what every
client reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from qcode.protocol.chunks import (
    Chunk,
    Completed,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.errors import BackendUnavailable
from qcode.protocol.messages import AssistantMessage, StopReason, Usage
from qcode.wire.openai_errors import error_from_payload
from qcode.wire.openai_request import JsonObject, ReasoningField, content_text
from qcode.wire.reasoning_details import ReasoningDetails
from qcode.wire.tool_call_stream import ToolCallStream

DONE = "[DONE]"
_REASONING_FIELDS: tuple[ReasoningField, ...] = ("reasoning_content", "reasoning")
_FAILED_ENDS = ("error", "abort")


def has_output(event: Mapping[str, object]) -> bool:
    """Whether an event carries something of the model's, or its end: servers announce an answer
    long before its first token."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta") or choice.get("message")
        said = (
            (value for key, value in delta.items() if key != "role")
            if isinstance(delta, dict)
            else ()
        )
        if choice.get("finish_reason") or any(said):
            return True
    return bool(event.get("error"))


@dataclass(slots=True)
class StreamDecoder:
    """Collects one streamed answer. `feed` takes the JSON of one event.

    Whether calls were made is told by the calls, never by `finish_reason`, which servers get
    wrong. `finished` says that the answer came to its end. `reasoning_field` names the field in
    which thinking came, for where a server wants it back; empty if none did. `begun`: there was
    an event of a completion at all.
    """

    calls: ToolCallStream = field(default_factory=ToolCallStream)
    reasoning_details: ReasoningDetails = field(default_factory=ReasoningDetails)
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    finish_reason: str = ""
    reasoning_field: ReasoningField = ""
    has_usage: bool = False
    begun: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.finish_reason)

    @property
    def truncated(self) -> bool:
        return self.finish_reason in ("length", "max_tokens")

    def feed(self, event: Mapping[str, object]) -> list[Delta]:
        """Raises BackendError where the event carries an error instead."""
        if event.get("error") or event.get("object") == "error":
            raise error_from_payload(event)
        if isinstance(event.get("model"), str):
            self.model = str(event["model"])
        if isinstance(event.get("usage"), dict):
            self.usage = _decode_usage(event["usage"])
            self.has_usage = True
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return []
        self.begun = True
        if choice.get("error"):
            raise error_from_payload(choice)
        delta = choice.get("delta") or choice.get("message")
        deltas = list(self._read_delta(delta)) if isinstance(delta, dict) else []
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"]
        if self.finish_reason in _FAILED_ENDS:
            raise BackendUnavailable(f"the answer ended with {self.finish_reason!r}")
        return deltas

    def _read_delta(self, delta: JsonObject) -> Iterator[Delta]:
        detailed = ""
        if details := delta.get("reasoning_details"):
            self.reasoning_field = "reasoning_details"
            detailed = self.reasoning_details.feed(details)
        for name in _REASONING_FIELDS:
            if (field := delta.get(name)) and (reasoning := content_text(field)):
                self.reasoning_field = self.reasoning_field or name
                yield ReasoningDelta(text=reasoning)
                break  # some servers send the same text under two names
        else:
            if detailed:
                yield ReasoningDelta(text=detailed)
        if text := content_text(delta.get("content")):
            yield TextDelta(text=text)
        items = delta.get("tool_calls")
        if isinstance(items, list):
            yield from self.calls.feed([item for item in items if isinstance(item, dict)])
        elif isinstance(delta.get("function_call"), dict):
            yield from self.calls.feed([{"function": delta["function_call"]}])


def _decode_usage(usage: object) -> Usage:
    fields = usage if isinstance(usage, dict) else {}
    details = fields.get("prompt_tokens_details")
    return Usage(
        input_tokens=_count(fields.get("prompt_tokens")),
        output_tokens=_count(fields.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


@dataclass(slots=True, kw_only=True)
class StreamEncoder:
    """Writes one answer as the events of a stream; `created` is in Unix seconds."""

    id: str
    model: str
    created: int
    include_usage: bool = True
    _named: set[int] = field(default_factory=set)

    def start(self) -> JsonObject:
        return self._event({"role": "assistant", "content": ""})

    def encode(self, chunk: Chunk) -> list[JsonObject]:
        match chunk:
            case TextDelta():
                return [self._event({"content": chunk.text})]
            case ReasoningDelta():
                return [self._event({"reasoning_content": chunk.text})]
            case ToolCallDelta():
                return [self._event({"tool_calls": [self._call(chunk)]})]
            case Completed():
                return self._end(chunk.message)
            case _:
                return []

    def _call(self, chunk: ToolCallDelta) -> JsonObject:
        if chunk.index in self._named:
            return {"index": chunk.index, "function": {"arguments": chunk.arguments}}
        self._named.add(chunk.index)
        return {
            "index": chunk.index,
            "id": chunk.call_id,
            "type": "function",
            "function": {"name": chunk.name, "arguments": chunk.arguments},
        }

    def _end(self, message: AssistantMessage) -> list[JsonObject]:
        events = [self._event({}, finish_reason=_FINISH_REASONS[message.stop_reason])]
        if self.include_usage:
            events.append({**self._event({}), "choices": [], "usage": _encode_usage(message.usage)})
        return events

    def _event(self, delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        }


_FINISH_REASONS: dict[StopReason, str] = {
    "end": "stop",
    "tool_calls": "tool_calls",
    "max_tokens": "length",
    "cancelled": "stop",
    "error": "stop",
}


def _encode_usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def encode_event(event: JsonObject | str) -> bytes:
    """One server-sent event."""
    data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    return f"data: {data}\n\n".encode()
