"""Requests in the Chat Completions format, in both directions: a client encodes what a server
decodes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from qcode.protocol.backends import ChatRequest
from qcode.protocol.errors import PeerError
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.protocol.values import dataclass

JsonObject = dict[str, object]
ReasoningField = Literal["", "reasoning_content", "reasoning", "reasoning_details"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one server departs from what most take.

    `reasoning`: earlier thinking is returned in the field it came in, required with every answer
    that made calls (even if empty), or dropped. Without a known `reasoning_field` there is nothing
    to return it in; thinking that came as `reasoning_details` goes back unchanged, to servers that
    send such. `single_calls` asks for one tool call an answer. `omitted` names optional
    request fields the server refuses.
    """

    reasoning: Literal["return", "require", "drop"] = "return"
    reasoning_field: ReasoningField = ""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    single_calls: bool = False
    omitted: frozenset[str] = frozenset()


def encode_request(
    request: ChatRequest,
    *,
    model: str,
    dialect: Dialect | None = None,
    extra_body: Mapping[str, object] | None = None,
    messages: Sequence[JsonObject] | None = None,
) -> JsonObject:
    """The body of a streaming request. `extra_body` goes in last and wins. `messages` are those of
    the request where they have been encoded already."""
    dialect = dialect or Dialect()
    if messages is None:
        messages = [encode_message(message, dialect) for message in request.messages]
    system = [{"role": "system", "content": request.system}] if request.system else []
    body: JsonObject = {
        "model": model,
        "messages": [*system, *messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
        if dialect.single_calls:
            body["parallel_tool_calls"] = False
    body.update(_encode_sampling(request.sampling, dialect))
    if request.answer is not None and request.answer.schema is not None:
        # Not "strict", for which servers take only a part of JSON Schema.
        shape = {"name": "answer", "schema": dict(request.answer.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    for name in dialect.omitted:
        body.pop(name, None)
    body.update(extra_body or {})
    return body


def unstreamed(body: JsonObject) -> JsonObject:
    """The same request for an answer in one piece."""
    return {**{k: v for k, v in body.items() if k != "stream_options"}, "stream": False}


def encode_message(message: Message, dialect: Dialect) -> JsonObject:
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
            written.update(_encode_reasoning(message, dialect))
            return written


def _encode_reasoning(message: AssistantMessage, dialect: Dialect) -> JsonObject:
    if dialect.reasoning == "drop":
        return {}
    blocks = [block for block in message.blocks if isinstance(block, ReasoningBlock)]
    field, text = dialect.reasoning_field, "".join(block.text for block in blocks)
    if field == "reasoning_details":
        details = [_parse(block.details) for block in blocks if block.details]
        if details:
            return {field: [part for parts in details if isinstance(parts, list) for part in parts]}
        field = "reasoning"
    if dialect.reasoning == "require" and (text or message.tool_calls):
        return {field or "reasoning_content": text}
    return {field: text} if text and field else {}


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


def _encode_sampling(sampling: SamplingParams, dialect: Dialect) -> JsonObject:
    fields: JsonObject = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        dialect.max_tokens_field: sampling.max_tokens,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_ids) or None,
        "ignore_eos": sampling.ignore_eos or None,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "logprobs": True if sampling.logprobs is not None else None,
        "top_logprobs": sampling.logprobs,
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
            system.append(content_text(item.get("content")))
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
    content = content_text(item.get("content"))
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
        min_p=_number(body, "min_p"),
        repetition_penalty=_number(body, "repetition_penalty"),
        presence_penalty=_number(body, "presence_penalty"),
        frequency_penalty=_number(body, "frequency_penalty"),
        seed=_integer(body, "seed"),
        max_tokens=max_tokens if max_tokens is not None else _integer(body, "max_tokens"),
        stop=tuple(str(text) for text in stops),
        stop_ids=_stop_ids(body),
        ignore_eos=body.get("ignore_eos") is True,
        logit_bias=_logit_bias(body),
        logprobs=(_integer(body, "top_logprobs") or 0) if body.get("logprobs") is True else None,
    )


def _stop_ids(body: JsonObject) -> tuple[int, ...]:
    ids = body.get("stop_token_ids")
    if ids is None:
        return ()
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise PeerError("stop_token_ids must be a list of token ids")
    return tuple(ids)


def _logit_bias(body: JsonObject) -> tuple[tuple[int, float], ...]:
    """JSON has strings for keys: {"1734": -100}."""
    biases = body.get("logit_bias")
    if biases is None:
        return ()
    if not isinstance(biases, dict):
        raise PeerError("logit_bias must be an object of token ids and numbers")
    pairs = []
    for token in biases:
        bias = _number(biases, token)
        if bias is None or not re.fullmatch(r"[0-9]{1,9}", token):
            raise PeerError("logit_bias must be an object of token ids and numbers")
        pairs.append((int(token), float(bias)))
    return tuple(pairs)


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


def content_text(content: object) -> str:
    """The text of a string, of null, or of a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))
