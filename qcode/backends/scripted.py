"""A model that follows a script, for tests and demonstrations.

A script file is JSON Lines, one step a line, or one JSON document: a list of steps, or an object
with `steps` and, for all of them, `model`, `context_window`, `strength` ("small" or "large").
Blank lines and lines that begin with `#` are skipped. Each request plays the next step:

    {"text": "I will look.", "calls": [{"name": "read_file", "arguments": {"path": "a.py"}}]}
    {"expect": "def add", "text": "Done.", "delay_s": 0.02}
    {"text": "I am", "error": {"type": "unavailable", "message": "connection lost"}}

A step has any of

    reasoning, text   what is said, in this order
    calls             tool calls: `name`, `arguments` (an object, or a string sent as it stands)
                      and, if it matters, `id`
    delay_s           seconds before each chunk (default 0)
    expect            a text that the request's last message must hold; else the step fails
    error             what the step ends with instead of an answer: "unavailable", "rate_limited",
                      "authentication", "context_overflow" or "invalid_response", alone or as
                      `type` beside `message` and `retry_after_s`
    stop_reason       "end", "tool_calls" or "max_tokens", where the blocks do not say it
    usage             `input_tokens`, `output_tokens`, `cached_tokens`
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk, Completed, ReasoningDelta, TextDelta, ToolCallDelta
from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
    SettingsError,
)
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    ReasoningBlock,
    StopReason,
    TextBlock,
    ToolCall,
    Usage,
)
from qcode.protocol.values import dataclass

_CHUNK_CHARACTERS = 8
_ERRORS: dict[str, type[BackendError]] = {
    "unavailable": BackendUnavailable,
    "rate_limited": RateLimited,
    "authentication": AuthenticationFailed,
    "context_overflow": ContextOverflow,
    "invalid_response": InvalidResponse,
}
_STEP_KEYS = {
    "reasoning",
    "text",
    "calls",
    "delay_s",
    "expect",
    "error",
    "stop_reason",
    "usage",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """An empty `id` is filled in when the step is played."""

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedStep:
    """One answer; the module's description names the fields."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    delay_s: float = 0.0
    expect: str | None = None
    error: BackendError | None = None
    stop_reason: StopReason | None = None
    usage: Usage = field(default_factory=Usage)


class ScriptedBackend:
    """Plays its steps in order, whatever is asked. `requests` are those received so far."""

    def __init__(self, steps: Sequence[ScriptedStep], *, model: ModelInfo | None = None) -> None:
        self._steps = tuple(steps)
        self._model = model or ModelInfo(name="scripted", context_window=None)
        self.requests: list[ChatRequest] = []

    @classmethod
    def from_file(cls, path: Path) -> ScriptedBackend:
        """Raises SettingsError: the file cannot be read or is not a script."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the script {path} cannot be read: {error}") from error
        try:
            return _read_script(text)
        except (ValueError, TypeError) as error:
            raise SettingsError(
                f"{path} is not a script: {error}",
                "each step is an object with text, calls and so on; see the scripted backend",
            ) from error

    @property
    def model(self) -> ModelInfo:
        return self._model

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        number = len(self.requests)
        self.requests.append(request)
        if number >= len(self._steps):
            raise InvalidResponse(
                f"the script has {len(self._steps)} steps and was asked for one more"
            )
        step = self._steps[number]
        _check_expectation(step, request, number)
        calls = tuple(
            ToolCall(
                id=call.id or f"call_{number}_{index}", name=call.name, arguments=call.arguments
            )
            for index, call in enumerate(step.calls)
        )
        for chunk in _deltas(step, calls):
            await asyncio.sleep(step.delay_s)
            yield chunk
        if step.error is not None:
            raise step.error
        yield Completed(message=self._message(step, calls))

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _message(self, step: ScriptedStep, calls: tuple[ToolCall, ...]) -> AssistantMessage:
        blocks: list[Block] = []
        if step.reasoning:
            blocks.append(ReasoningBlock(text=step.reasoning))
        if step.text:
            blocks.append(TextBlock(text=step.text))
        blocks.extend(calls)
        return AssistantMessage(
            blocks=tuple(blocks),
            stop_reason=step.stop_reason or ("tool_calls" if calls else "end"),
            model=self._model.name,
            usage=step.usage,
        )


def _check_expectation(step: ScriptedStep, request: ChatRequest, number: int) -> None:
    if step.expect is None:
        return
    last = request.messages[-1] if request.messages else None
    said = last.text if isinstance(last, AssistantMessage) else last.content if last else ""
    if step.expect not in said:
        raise InvalidResponse(
            f"step {number + 1} of the script expects {step.expect!r} in the last message, "
            f"which begins {said[:200]!r}"
        )


def _deltas(
    step: ScriptedStep, calls: Sequence[ToolCall]
) -> Iterator[TextDelta | ReasoningDelta | ToolCallDelta]:
    for piece in _pieces(step.reasoning):
        yield ReasoningDelta(text=piece)
    for piece in _pieces(step.text):
        yield TextDelta(text=piece)
    for index, call in enumerate(calls):
        yield ToolCallDelta(index=index, call_id=call.id, name=call.name)
        for piece in _pieces(call.arguments):
            yield ToolCallDelta(index=index, call_id=call.id, arguments=piece)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _CHUNK_CHARACTERS):
        yield text[start : start + _CHUNK_CHARACTERS]


def _read_script(text: str) -> ScriptedBackend:
    document = _parse(text)
    head: dict[str, object] = {}
    if isinstance(document, dict):
        head = document
        document = document.get("steps")
    if not isinstance(document, list):
        raise ValueError("there is no list of steps")
    model = ModelInfo(
        name=str(head.get("model", "scripted")),
        context_window=_optional_int(head.get("context_window")),
        strength=_strength(head.get("strength", "large")),
    )
    return ScriptedBackend([_step(item) for item in document], model=model)


def _parse(text: str) -> object:
    try:
        document = json.loads(text)
    except ValueError:
        lines = (line.strip() for line in text.splitlines())
        return [json.loads(line) for line in lines if line and not line.startswith("#")]
    is_single_step = isinstance(document, dict) and "steps" not in document
    return [document] if is_single_step else document


def _optional_int(value: object) -> int | None:
    if value is None or isinstance(value, int):
        return value
    raise ValueError(f"context_window is a number of tokens, not {value!r}")


def _strength(value: object) -> Literal["small", "large"]:
    if value == "small" or value == "large":  # spelt out for mypy
        return value
    raise ValueError(f'strength is "small" or "large", not {value!r}')


def _step(item: object) -> ScriptedStep:
    if not isinstance(item, dict):
        raise ValueError(f"a step is an object, not {item!r}")
    unknown = sorted(item.keys() - _STEP_KEYS)
    if unknown:
        raise ValueError(f"a step has no {unknown[0]!r}")
    return ScriptedStep(
        text=str(item.get("text", "")),
        reasoning=str(item.get("reasoning", "")),
        calls=tuple(_call(call) for call in item.get("calls", ())),
        delay_s=float(item.get("delay_s", 0)),
        expect=item.get("expect"),
        error=_error(item["error"]) if "error" in item else None,
        stop_reason=item.get("stop_reason"),
        usage=Usage(**item.get("usage", {})),
    )


def _call(item: object) -> ScriptedCall:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ValueError(f"a call is an object with a name, not {item!r}")
    arguments = item.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ScriptedCall(name=item["name"], arguments=written, id=str(item.get("id", "")))


def _error(item: object) -> BackendError:
    fields = item if isinstance(item, dict) else {"type": item}
    kind = _ERRORS.get(str(fields.get("type")))
    if kind is None:
        raise ValueError(f"an error is one of {', '.join(_ERRORS)}, not {fields.get('type')!r}")
    message = str(fields.get("message", "the script says so"))
    if kind is RateLimited:
        wait_s = fields.get("retry_after_s")
        return RateLimited(message, retry_after_s=None if wait_s is None else float(str(wait_s)))
    return kind(message)
