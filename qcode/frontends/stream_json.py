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
from dataclasses import field

from qcode import __version__
from qcode.agent.limits import Prices
from qcode.frontends.partial_messages import JsonObject, PartialMessages, usage_object
from qcode.protocol.chunks import ReasoningDelta, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.errors import AnswerNotInForm, LimitReached, QcodeError
from qcode.protocol.events import (
    ApprovalResolved,
    CompletionCheck,
    ContextCompacted,
    Event,
    MessageAdded,
    Notice,
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
from qcode.protocol.values import dataclass

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
    """What the objects say about a run as a whole. `structured` answers are JSON text."""

    session_id: str
    cwd: str
    model: str
    mode: str
    tools: tuple[str, ...] = ()
    context_window: int | None = None
    prices: Prices = field(default_factory=Prices)
    structured: bool = False


def control_success(request_id: str, response: JsonObject) -> JsonObject:
    """The answer to a control request."""
    inner = {"subtype": "success", "request_id": request_id, "response": response}
    return {"type": "control_response", "response": inner}


def control_error(request_id: str, problem: str) -> JsonObject:
    inner = {"subtype": "error", "request_id": request_id, "error": problem}
    return {"type": "control_response", "response": inner}


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
        self._new_id = new_id
        self._clock = clock
        self._began = clock()
        self._num_turns = 0
        self._step_began = self._began
        self._model_s = 0.0
        self._prompt: str | None = None
        self._last_stop: str | None = None
        self._streamed: PartialMessages | None = None
        if partial:
            self._streamed = PartialMessages(self._stream_event, facts.model, new_id)
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
                self._begin_turn(event)
            case StepStarted():
                self._step_began = self._clock()
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                if self._streamed is not None:
                    self._streamed.show(event)
            case Retrying():
                self._end_streamed(None)
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
            case Notice(level="warning"):
                self._emit("system", subtype="warning", message=event.text)
            case _:
                pass

    def complain(self, error: QcodeError) -> None:
        """Something is wrong that ends neither turn nor run."""
        self._emit("system", subtype="error", is_error=True, error=_described(error))

    def finish(self, finished: TurnFinished) -> None:
        self._end_streamed(None)
        error = _error(finished)
        outcome: JsonObject = {"result": finished.text} if error is None else {"error": error}
        structured = self._facts.structured and error is None
        self._emit(
            "result",
            subtype="success" if error is None else _error_subtype(finished.error),
            is_error=error is not None,
            duration_ms=_milliseconds(self._clock() - self._began),
            duration_api_ms=_milliseconds(self._model_s),
            num_turns=finished.num_steps,
            **outcome,
            stop_reason=self._last_stop,
            total_cost_usd=self._facts.prices.cost(finished.usage),
            usage=usage_object(finished.usage),
            modelUsage={self._facts.model: self._model_usage(finished.usage)},
            permission_denials=self._denials,
            structured_output=json.loads(finished.text) if structured else None,
            verification=_verification(finished.check),
        )

    def _begin_turn(self, event: TurnStarted) -> None:
        self._prompt = event.prompt
        if self._num_turns:  # the first one's time includes what came before it
            self._began = self._clock()
        self._num_turns += 1
        self._model_s = 0.0
        self._last_stop = None
        self._denials = []

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
        message_id = self._end_streamed(message) or self._new_id()
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
                "usage": usage_object(message.usage),
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

    def _end_streamed(self, message: AssistantMessage | None) -> str | None:
        """Ends the answer being streamed, which became `message`; its id, if there was one."""
        if self._streamed is None:
            return None
        usage = Usage() if message is None else message.usage
        stop_reason = None if message is None else _STOP_REASONS[message.stop_reason]
        return self._streamed.end(stop_reason=stop_reason, usage=usage_object(usage))

    def _stream_event(self, event: JsonObject) -> None:
        self._emit("stream_event", parent_tool_use_id=None, event=event)

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


def _error_subtype(error: QcodeError | None) -> str:
    match error:
        case LimitReached(limit="max_turns"):
            return "error_max_turns"
        case LimitReached(limit="max_cost"):
            return "error_max_budget_usd"
        case AnswerNotInForm():
            return "error_max_structured_output_retries"
        case _:
            return "error_during_execution"


def _verification(check: CompletionCheck | None) -> JsonObject | None:
    if check is None:
        return None
    return {
        "kind": check.kind,
        "command": check.command,
        "exit_code": check.exit_code,
        "summary": check.sentence,
    }


def _described(error: QcodeError) -> JsonObject:
    kind = error.limit if isinstance(error, LimitReached) else ""
    message = f"{error.message}\n{error.hint}" if error.hint else error.message
    return {"type": kind or type(error).__name__, "message": message}


def _error(finished: TurnFinished) -> JsonObject | None:
    """What went wrong, or None for a success."""
    if finished.error is not None:
        return _described(finished.error)
    if finished.reason != "completed":
        return {"type": finished.reason, "message": f"The turn ended: {finished.reason}."}
    if finished.verify_exit_code not in (None, 0):
        return {
            "type": "verify_failed",
            "message": f"The verify command still fails (exit {finished.verify_exit_code}).",
        }
    return None
