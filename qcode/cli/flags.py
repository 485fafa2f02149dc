"""The flags that several commands take, declared once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qcode.config.options import SessionChoice
from qcode.engine.options import KVDtypeName, parse_context
from qcode.protocol.permissions import Mode


def _context(text: str) -> int:
    try:
        return parse_context(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}.") from error


ContinueFlag = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with this folder's last conversation.")
]
ModelFlag = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="Model name, .gguf file or checkpoint."),
]
BaseUrlFlag = Annotated[
    str | None,
    typer.Option(
        "--base-url", metavar="URL", help="Chat Completions endpoint; `local` for the own engine."
    ),
]
ContextFlag = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="TOKENS",
        parser=_context,
        help="Tokens of prompt and answer, as 32768, 256K or 1M; beyond the model's own by YaRN.",
    ),
]
KVDtypeFlag = Annotated[
    KVDtypeName | None,
    typer.Option(
        "--kv-dtype", help="How the own engine keeps keys and values; fp8 and int8 take half."
    ),
]
ApprovalModeFlag = Annotated[
    Mode | None, typer.Option("--approval-mode", help="How much may run unasked.")
]
YoloFlag = Annotated[bool, typer.Option("--yolo", help="Run everything unasked.")]
AllowFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="RULE",
        help="Allow without asking, as 'Bash(pytest:*)' or Edit. Repeatable.",
    ),
]
DenyFlag = Annotated[
    list[str] | None, typer.Option("--deny", metavar="RULE", help="Never allow. Repeatable.")
]
ProfileFlag = Annotated[
    Literal["auto", "lean", "full"] | None,
    typer.Option("--profile", help="How much the model is told and offered."),
]
SandboxFlag = Annotated[
    Literal["auto", "require"] | None,
    typer.Option("--sandbox", help="require: refuse to start without a sandbox (none yet)."),
]
TrustFlag = Annotated[
    bool, typer.Option("--trust", help="Read the folder's .qcode/config.toml for this run.")
]
VerboseFlag = Annotated[bool, typer.Option("--verbose", help="Log to stderr.")]


def setting_flags(**flags: object) -> dict[str, object]:
    """Only what was typed."""
    return {name: value for name, value in flags.items() if value not in (None, [])}


def chosen_mode(approval_mode: Mode | None, *, yolo: bool) -> Mode | None:
    if not yolo:
        return approval_mode
    if approval_mode not in (None, Mode.YOLO):
        raise typer.BadParameter(f"--yolo contradicts --approval-mode {approval_mode}.")
    return Mode.YOLO


def session_choice(*, go_on: bool, resume: str | None, ephemeral: bool = False) -> SessionChoice:
    if go_on + (resume is not None) + ephemeral > 1:
        raise typer.BadParameter("Choose one of --continue, --resume and --ephemeral.")
    if resume is not None:
        return SessionChoice(kind="resume", session_id=resume)
    if ephemeral:
        return SessionChoice(kind="ephemeral")
    return SessionChoice(kind="continue" if go_on else "new")
