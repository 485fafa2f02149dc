"""What was asked on the command line, before any file is read: by `qcode` and `qcode run`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionChoice:
    """Which conversation to work in. `session_id` is a session's id or the beginning of one; an
    empty one with "resume" means: let the person choose. "ephemeral" is kept in memory only."""

    kind: Literal["new", "continue", "resume", "ephemeral"] = "new"
    session_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """`flags` are the settings given as flags, by setting name, and hold only what was typed.

    `prompt` is empty for the interactive program without a first prompt. `trust` makes this
    folder's own settings count for this run; `bare` leaves all settings files and instruction files
    unread. `answer_schema` is the JSON Schema the closing answer must obey.
    """

    cwd: Path
    prompt: str = ""
    flags: dict[str, object] = field(default_factory=dict)
    session: SessionChoice = field(default_factory=SessionChoice)
    trust: bool = False
    bare: bool = False
    answer_schema: dict[str, object] | None = None
    verbose: bool = False
