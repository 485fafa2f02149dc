"""What the agent emits. A front end may ignore any event; none needs an answer.

Order in a turn: `TurnStarted`, then for each step `StepStarted`, deltas, `MessageAdded` (the
assistant's), then for each call `ToolStarted` .. `ToolProgress` .. `ToolFinished` and
`MessageAdded` (its result). `TurnFinished` always comes and is last.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from qcode.protocol.chunks import (
    PrefillProgress,
    ReasoningDelta,
    Retrying,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.errors import QcodeError
from qcode.protocol.messages import Message, ToolCall, Usage
from qcode.protocol.permissions import Display, PermissionRequest
from qcode.protocol.tools import ToolResult
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    prompt: str
    type: Literal["turn_started"] = "turn_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    step: int
    type: Literal["step_started"] = "step_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftDelta:
    """A piece of an answer that is only tried: shown while it is written, and kept nowhere."""

    text: str
    type: Literal["draft_delta"] = "draft_delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    message: Message
    type: Literal["message_added"] = "message_added"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted:
    call: ToolCall
    title: str
    preview: Display | None = None
    type: Literal["tool_started"] = "tool_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgress:
    call_id: str
    text: str
    type: Literal["tool_progress"] = "tool_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """Every call of the model gets one, also a refused, unknown or cancelled one (which has no
    `ToolStarted`)."""

    call: ToolCall
    title: str
    result: ToolResult
    duration_s: float
    type: Literal["tool_finished"] = "tool_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested:
    call_id: str
    request: PermissionRequest
    reason: str
    type: Literal["approval_requested"] = "approval_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalResolved:
    call_id: str
    allowed: bool
    type: Literal["approval_resolved"] = "approval_resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCompacted:
    before_tokens: int
    after_tokens: int
    type: Literal["context_compacted"] = "context_compacted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One line for the person: what the harness does or found."""

    text: str
    level: Literal["info", "warning"] = "info"
    type: Literal["notice"] = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCheck:
    """The last command that was run to see whether the work is done, after the last change.

    `exit_code` is None where it was not run or did not end; `reason` then says why."""

    kind: Literal["verify", "tests"]
    command: str
    exit_code: int | None
    reason: str = ""

    @property
    def sentence(self) -> str:
        if self.exit_code is None:
            return f"Not checked: `{self.command}` was not run. {self.reason}".rstrip()
        if self.exit_code == 0:
            return f"Checked: `{self.command}` succeeds."
        return f"Checked: `{self.command}` fails (exit code {self.exit_code})."


TurnReason = Literal["completed", "cancelled", "limit", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """`text` is the closing answer. `error` is set when the reason is "failed", and names the
    limit when it is "limit". `verify_exit_code` is that of the `--verify` command's last run.
    `check` is what was run before the work was called done; its sentence belongs to the answer."""

    reason: TurnReason
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    num_steps: int = 0
    error: QcodeError | None = None
    verify_exit_code: int | None = None
    check: CompletionCheck | None = None
    type: Literal["turn_finished"] = "turn_finished"


Event = (
    TurnStarted
    | StepStarted
    | PrefillProgress
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | DraftDelta
    | Retrying
    | MessageAdded
    | ToolStarted
    | ToolProgress
    | ToolFinished
    | ApprovalRequested
    | ApprovalResolved
    | ContextCompacted
    | Notice
    | TurnFinished
)
