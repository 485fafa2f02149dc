"""The Chat Completions format, in both directions: requests, and stream chunks.

A client encodes a request and decodes the stream; a server decodes the request and encodes the
stream. Decoding forgives what servers are known to send; encoding gives only what every client
reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import (
    Chunk,
    Completed,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.errors import PeerError
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    Message,
    StopReason,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.wire.openai_errors import error_from_payload
from qcode.wire.tool_call_stream import ToolCallStream

JsonObject = dict[str, object]
DONE = "[DONE]"


# Requests


def encode_request(
    request: ChatRequest, *, model: str, extra_body: Mapping[str, object] | None = None
) -> JsonObject:
    """The body of a streaming request. `extra_body` goes in last and wins."""
    messages: list[JsonObject] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    messages.extend(_encode_message(message) for message in request.messages)
    body: JsonObject = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
    body.update(_encode_sampling(request.sampling))
    body.update(extra_body or {})
    return body


def _encode_message(message: Message) -> JsonObject:
    match message:
        case UserMessage():
            return {"role": "user", "content": message.content}
        case ToolMessage():
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
        case AssistantMessage():
            calls = [_encode_call(call) for call in message.tool_calls]
            written: JsonObject = {
                "role": "assistant",
                "content": message.text or (None if calls else ""),
            }
            if calls:
                written["tool_calls"] = calls
            return written


def _encode_call(call: ToolCall) -> JsonObject:
    """Arguments that are no JSON object would fail the server's template: none are sent."""
    arguments = call.arguments if isinstance(_parse(call.arguments), dict) else "{}"
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _encode_tool(tool: ToolSpec) -> JsonObject:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
    }
    return {"type": "function", "function": function}


def _encode_sampling(sampling: SamplingParams) -> JsonObject:
    fields: JsonObject = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedRequest:
    """A request as a server reads it. `model` is what the client named."""

    request: ChatRequest
    model: str
    stream: bool
    include_usage: bool


def decode_request(body: object) -> DecodedRequest:
    """Unknown fields are ignored. Raises PeerError where a known one cannot be read."""
    if not isinstance(body, dict):
        raise PeerError("the request body is not a JSON object")
    listed = body.get("messages")
    if not isinstance(listed, list) or not listed:
        raise PeerError("messages must be a list that is not empty")
    system: list[str] = []
    messages: list[Message] = []
    names: dict[str, str] = {}
    for item in listed:
        if not isinstance(item, dict):
            raise PeerError("a message is not a JSON object")
        role = item.get("role")
        if role in ("system", "developer"):
            system.append(_content_text(item.get("content")))
            continue
        message = _decode_message(item, role, names)
        messages.append(message)
        if isinstance(message, AssistantMessage):
            names.update((call.id, call.name) for call in message.tool_calls)
    tools = body.get("tools")
    options = body.get("stream_options")
    return DecodedRequest(
        request=ChatRequest(
            system="\n\n".join(system),
            messages=tuple(messages),
            tools=tuple(_decode_tool(tool) for tool in tools) if isinstance(tools, list) else (),
            sampling=_decode_sampling(body),
        ),
        model=str(body.get("model") or ""),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _decode_message(item: JsonObject, role: object, names: Mapping[str, str]) -> Message:
    content = _content_text(item.get("content"))
    if role == "user":
        return UserMessage(content=content)
    if role == "tool":
        call_id = str(item.get("tool_call_id") or "")
        return ToolMessage(call_id=call_id, name=names.get(call_id, ""), content=content)
    if role != "assistant":
        raise PeerError(f"a message has the unknown role {role!r}")
    blocks: list[Block] = [TextBlock(text=content)] if content else []
    listed = item.get("tool_calls")
    for call in listed if isinstance(listed, list) else ():
        blocks.append(_decode_call(call))
    has_calls = any(isinstance(block, ToolCall) for block in blocks)
    return AssistantMessage(
        blocks=tuple(blocks), stop_reason="tool_calls" if has_calls else "end", model=""
    )


def _decode_call(item: object) -> ToolCall:
    function = item.get("function") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(function, dict):
        raise PeerError("a tool call has no function")
    arguments = function.get("arguments")
    return ToolCall(
        id=str(item.get("id") or ""),
        name=str(function.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
    )


def _decode_tool(item: object) -> ToolSpec:
    function = item.get("function") if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise PeerError("a tool is not a function with a name")
    schema = function.get("parameters")
    return ToolSpec(
        name=function["name"],
        description=str(function.get("description") or ""),
        schema=schema if isinstance(schema, dict) else {},
    )


def _decode_sampling(body: JsonObject) -> SamplingParams:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    max_tokens = _integer(body, "max_completion_tokens")
    return SamplingParams(
        temperature=_number(body, "temperature"),
        top_p=_number(body, "top_p"),
        top_k=_integer(body, "top_k"),
        repetition_penalty=_number(body, "repetition_penalty"),
        seed=_integer(body, "seed"),
        max_tokens=max_tokens if max_tokens is not None else _integer(body, "max_tokens"),
        stop=tuple(str(text) for text in stops),
    )


def _number(body: JsonObject, key: str) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PeerError(f"{key} must be a number")
    return value


def _integer(body: JsonObject, key: str) -> int | None:
    value = _number(body, key)
    if isinstance(value, float) and not value.is_integer():
        raise PeerError(f"{key} must be a whole number")
    return None if value is None else int(value)


def _content_text(content: object) -> str:
    """The text of a string, of null, or of a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


# Streams


@dataclass(slots=True)
class StreamDecoder:
    """Collects one streamed answer. `feed` takes the JSON of one event.

    Whether calls were made is told by the calls, never by `finish_reason`, which servers get
    wrong. `finished` says that the answer came to its end.
    """

    calls: ToolCallStream = field(default_factory=ToolCallStream)
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    finish_reason: str = ""

    @property
    def finished(self) -> bool:
        return bool(self.finish_reason)

    @property
    def truncated(self) -> bool:
        return self.finish_reason in ("length", "max_tokens")

    def feed(self, event: Mapping[str, object]) -> list[Delta]:
        """Raises BackendError where the event carries an error instead."""
        if event.get("error"):
            raise error_from_payload(event)
        if isinstance(event.get("model"), str):
            self.model = str(event["model"])
        if isinstance(event.get("usage"), dict):
            self.usage = _decode_usage(event["usage"])
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return []
        delta = choice.get("delta") or choice.get("message")
        deltas = list(self._read_delta(delta)) if isinstance(delta, dict) else []
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"]
        return deltas

    def _read_delta(self, delta: JsonObject) -> Iterator[Delta]:
        reasoning = _content_text(delta.get("reasoning_content") or delta.get("reasoning"))
        if reasoning:
            yield ReasoningDelta(text=reasoning)
        if text := _content_text(delta.get("content")):
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
