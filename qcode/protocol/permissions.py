"""What is asked before something runs, and what can be answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Protocol

from qcode.protocol.values import dataclass


class Access(StrEnum):
    READ = "read"
    EDIT = "edit"
    EXECUTE = "execute"
    NETWORK = "network"


class Mode(StrEnum):
    """How much may run unasked."""

    PLAN = "plan"
    DEFAULT = "default"
    AUTO_EDIT = "auto-edit"
    YOLO = "yolo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffDisplay:
    """A change of one file. `old_text` is None for a new file."""

    path: str
    old_text: str | None
    new_text: str
    type: Literal["diff"] = "diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDisplay:
    text: str
    type: Literal["text"] = "text"


Display = DiffDisplay | TextDisplay


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleCommand:
    """One command of a shell line, its words literal. `writes_to` and `reads_from` are the files
    it redirects to and from; `expands` are the indexes of words that the shell may still expand
    (an unquoted glob, brace or tilde)."""

    argv: tuple[str, ...]
    writes_to: tuple[str, ...] = ()
    reads_from: tuple[str, ...] = ()
    expands: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellAnalysis:
    """A shell line taken apart. `opaque` says why it cannot be understood fully (a substitution,
    a loop, a parse error); then no allow rule and no safe list may speak for it, but deny rules
    still see every command that was found."""

    commands: tuple[SimpleCommand, ...]
    opaque: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRequest:
    """What one tool call would touch. `target` is a path, a command line or a URL.

    `protected` marks targets that ask even when edits are allowed (configuration that can run
    code) and secrets that ask before they are read.
    """

    tool: str
    access: Access
    target: str
    inside_workspace: bool
    title: str
    preview: Display | None = None
    shell: ShellAnalysis | None = None
    protected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The policy's decision and the rule or reason behind it."""

    decision: Literal["allow", "ask", "deny"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A person's answer. `note` is feedback for the model when refused."""

    allowed: bool
    scope: Literal["once", "session", "always"] = "once"
    note: str = ""


class Approver(Protocol):
    """The one question the agent asks back. `reason` says why it is asked."""

    async def ask(self, request: PermissionRequest, reason: str) -> Answer: ...
