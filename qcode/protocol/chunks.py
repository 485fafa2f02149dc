"""What a backend streams."""

from __future__ import annotations

from typing import Literal

from qcode.protocol.messages import AssistantMessage
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    text: str
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    text: str
    type: Literal["reasoning_delta"] = "reasoning_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a call being written. The first piece of a call carries its name; the pieces of
    `arguments` concatenate to the final JSON text. `index` counts the calls of one answer."""

    index: int
    call_id: str
    name: str = ""
    arguments: str = ""
    type: Literal["tool_call_delta"] = "tool_call_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillProgress:
    """How much of the prompt has been read. Only backends that know send it."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int
    type: Literal["prefill_progress"] = "prefill_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A request failed and is tried again after `wait_s` seconds; its deltas so far are void."""

    attempt: int
    wait_s: float
    reason: str
    type: Literal["retrying"] = "retrying"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """One sampled token and the runner-up it was chosen over, by the model's own probabilities."""

    token_id: int
    text: str
    probability: float
    runner_up_id: int
    runner_up_text: str
    runner_up_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The end of a stream. `trace` is filled only where the request asked for it."""

    message: AssistantMessage
    trace: tuple[TokenChoice, ...] = ()
    type: Literal["completed"] = "completed"


Delta = TextDelta | ReasoningDelta | ToolCallDelta
Chunk = Delta | PrefillProgress | Retrying | Completed
