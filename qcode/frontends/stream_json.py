"""Events -> the JSON objects that programs driving a coding agent already read.

The shapes are those of Claude Code's and qwen-code's headless output: one `system` object first,
`assistant` and `user` objects between, exactly one `result` last, also after a failure. With
`partial` also a `stream_event` for each delta.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from qcode import __version__
from qcode.protocol.chunks import Delta, ReasoningDelta, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.errors import LimitReached
from qcode.protocol.events import (
    ApprovalResolved,
    ContextCompacted,
    Event,
    MessageAdded,
    StepStarted,
    TurnFinished,
    TurnStarted,
)
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    ReasoningBlock,
    StopReason,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

JsonObject = dict[str, object]

_STOP_REASONS: dict[StopReason, str | None] = {
    "end": "end_turn",
    "tool_calls": "tool_use",
    "max_tokens": "max_tokens",
    "cancelled": None,
    "error": None,
}


def _random_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the first object says about a run."""

    session_id: str
    cwd: str
    model: str
    mode: str
    tools: tuple[str, ...] = ()
    context_window: int | None = None


@dataclass(slots=True)
class _OpenMessage:
    """An answer being streamed: `block` is the kind (and call) of its block not yet closed."""

    id: str
    index: int = -1
    block: tuple[str, int] | None = None
    calls: dict[int, str] = field(default_factory=dict)


class StreamJson:
    """One run's events as JSON objects, handed to `emit` in order. `clock` gives seconds."""

    def __init__(
        self,
        facts: RunFacts,
        emit: Callable[[JsonObject], None],
        *,
        partial: bool = False,
        new_id: Callable[[], str] = _random_id,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._facts = facts
        self._emit_object = emit
        self._partial = partial
        self._new_id = new_id
        self._clock = clock
        self._began = clock()
        self._step_began = self._began
        self._model_s = 0.0
        self._prompt: str | None = None
        self._last_stop: str | None = None
        self._open: _OpenMessage | None = None
        self._calls: dict[str, ToolCall] = {}
        self._denials: list[JsonObject] = []

    def start(self) -> None:
        facts = self._facts
        self._emit(
            "system",
            subtype="init",
            cwd=facts.cwd,
            model=facts.model,
            tools=list(facts.tools),
            mcp_servers=[],
            permission_mode=facts.mode,
            permissionMode=facts.mode,
            slash_commands=[],
            agents=[],
            skills=[],
            qcode_version=__version__,
        )

    def show(self, event: Event) -> None:
        match event:
            case TurnStarted():
                self._prompt = event.prompt
            case StepStarted():
                self._step_began = self._clock()
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                if self._partial:
                    self._delta(event)
            case Retrying():
                self._close_message(stop_reason=None, usage=Usage())
            case MessageAdded():
                self._message(event)
            case ApprovalResolved():
                self._denial(event)
            case ContextCompacted():
                self._emit(
                    "system",
                    subtype="compact_boundary",
                    compact_metadata={"trigger": "auto", "pre_tokens": event.before_tokens},
                )
            case _:
                pass

    def finish(self, finished: TurnFinished) -> None:
        self._close_message(stop_reason=None, usage=Usage())
        error = _error(finished)
        subtype = "success" if error is None else "error_during_execution"
        if isinstance(finished.error, LimitReached) and finished.error.limit == "max_turns":
            subtype = "error_max_turns"
        outcome: JsonObject = {"result": finished.text} if error is None else {"error": error}
        self._emit(
            "result",
            subtype=subtype,
            is_error=error is not None,
            duration_ms=_milliseconds(self._clock() - self._began),
            duration_api_ms=_milliseconds(self._model_s),
            num_turns=finished.num_steps,
            **outcome,
            stop_reason=self._last_stop,
            total_cost_usd=0,
            usage=_usage(finished.usage),
            modelUsage={self._facts.model: self._model_usage(finished.usage)},
            permission_denials=self._denials,
            structured_output=None,
        )

    def _emit(self, kind: str, **fields: object) -> None:
        head: JsonObject = {"type": kind}
        if "subtype" in fields:
            head["subtype"] = fields.pop("subtype")
        head |= {"uuid": self._new_id(), "session_id": self._facts.session_id}
        self._emit_object(head | fields)

    def _message(self, event: MessageAdded) -> None:
        message = event.message
        match message:
            case AssistantMessage():
                self._assistant(message)
            case ToolMessage():
                result = {
                    "type": "tool_result",
                    "tool_use_id": message.call_id,
                    "content": message.content,
                    "is_error": message.is_error,
                }
                self._user([result])
            case UserMessage():
                # The reader wrote the prompt itself; what the harness adds later is news to it.
                if message.content == self._prompt:
                    self._prompt = None
                else:
                    self._user([{"type": "text", "text": message.content}])

    def _user(self, content: list[JsonObject]) -> None:
        self._emit("user", parent_tool_use_id=None, message={"role": "user", "content": content})

    def _assistant(self, message: AssistantMessage) -> None:
        self._model_s += self._clock() - self._step_began
        self._calls |= {call.id: call for call in message.tool_calls}
        self._last_stop = _STOP_REASONS[message.stop_reason]
        message_id = self._open.id if self._open is not None else self._new_id()
        self._close_message(stop_reason=self._last_stop, usage=message.usage)
        self._emit(
            "assistant",
            parent_tool_use_id=None,
            message={
                "id": message_id,
                "type": "message",
                "role": "assistant",
                "model": message.model,
                "content": [_block(block) for block in message.blocks],
                "stop_reason": self._last_stop,
                "usage": _usage(message.usage),
            },
        )

    def _denial(self, event: ApprovalResolved) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and not event.allowed:
            self._denials.append(
                {
                    "tool_name": call.name,
                    "tool_use_id": call.id,
                    "tool_input": _arguments(call.arguments),
                }
            )

    def _delta(self, event: Delta) -> None:
        if self._open is None:
            self._open = _OpenMessage(id=self._new_id())
            message: JsonObject = {
                "id": self._open.id,
                "type": "message",
                "role": "assistant",
                "model": self._facts.model,
                "content": [],
                "stop_reason": None,
                "usage": _usage(Usage()),
            }
            self._stream_event("message_start", message=message)
        match event:
            case TextDelta():
                self._block(("text", 0), {"type": "text", "text": ""})
                delta: JsonObject = {"type": "text_delta", "text": event.text}
            case ReasoningDelta():
                self._block(("thinking", 0), {"type": "thinking", "thinking": ""})
                delta = {"type": "thinking_delta", "thinking": event.text}
            case ToolCallDelta():
                start: JsonObject = {
                    "type": "tool_use",
                    "id": event.call_id,
                    "name": event.name,
                    "input": {},
                }
                self._block(("tool_use", event.index), start)
                delta = {"type": "input_json_delta", "partial_json": event.arguments}
        self._stream_event("content_block_delta", index=self._open.index, delta=delta)

    def _block(self, block: tuple[str, int], start: JsonObject) -> None:
        """Makes `block` the open one."""
        assert self._open is not None
        if self._open.block == block:
            return
        self._close_block()
        self._open.index += 1
        self._open.block = block
        self._stream_event("content_block_start", index=self._open.index, content_block=start)

    def _close_block(self) -> None:
        if self._open is not None and self._open.block is not None:
            self._stream_event("content_block_stop", index=self._open.index)
            self._open.block = None

    def _close_message(self, *, stop_reason: str | None, usage: Usage) -> None:
        """Ends the answer being streamed, if there is one."""
        if self._open is None:
            return
        self._close_block()
        self._stream_event("message_delta", delta={"stop_reason": stop_reason}, usage=_usage(usage))
        self._stream_event("message_stop")
        self._open = None

    def _stream_event(self, kind: str, **fields: object) -> None:
        self._emit("stream_event", parent_tool_use_id=None, event={"type": kind, **fields})

    def _model_usage(self, usage: Usage) -> JsonObject:
        return {
            "inputTokens": usage.input_tokens - usage.cached_tokens,
            "outputTokens": usage.output_tokens,
            "cacheReadInputTokens": usage.cached_tokens,
            "cacheCreationInputTokens": 0,
            "webSearchRequests": 0,
            "contextWindow": self._facts.context_window or 0,
        }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _usage(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
    }


def _block(block: Block) -> JsonObject:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ReasoningBlock():
            return {"type": "thinking", "thinking": block.text}
        case ToolCall():
            return {
                "type": "tool_use",
                "id": block.id,
                "name": block.name,
                "input": _arguments(block.arguments),
            }


def _arguments(text: str) -> object:
    """A call's arguments; what is not a JSON object is kept as text under one key."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_json": text}


def _error(finished: TurnFinished) -> JsonObject | None:
    """What went wrong, or None for a success."""
    if finished.error is not None:
        kind = finished.error.limit if isinstance(finished.error, LimitReached) else ""
        kind = kind or type(finished.error).__name__
        message = finished.error.message
        if finished.error.hint:
            message = f"{message}\n{finished.error.hint}"
        return {"type": kind, "message": message}
    if finished.reason != "completed":
        return {"type": finished.reason, "message": f"The turn ended: {finished.reason}."}
    if finished.verify_exit_code not in (None, 0):
        return {
            "type": "verify_failed",
            "message": f"The verify command still fails (exit {finished.verify_exit_code}).",
        }
    return None
