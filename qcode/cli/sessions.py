"""`qcode session`: the stored conversations of this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qcode.agent.session import Session
from qcode.agent.session_store import SessionStore, read_records
from qcode.config.locations import Locations
from qcode.protocol.messages import AssistantMessage, Message, ToolMessage, UserMessage
from qcode.sandbox.terminal_text import printable

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show and remove the stored conversations of this folder.",
)

SessionId = Annotated[
    str, typer.Argument(metavar="ID", help="An id, or enough of its begin or end.")
]


def _store() -> SessionStore:
    return SessionStore(Locations.from_environment(os.environ).sessions, Path.cwd().resolve())


@command.command("list")
def list_sessions() -> None:
    """List this folder's conversations, the latest first."""
    stored = _store().list()
    if not stored:
        print("There is no conversation of this folder yet.")
    for session in stored:
        when = session.modified.astimezone().strftime("%Y-%m-%d %H:%M")
        print(f"{session.id}  {when}  {printable(session.title)}")


@command.command()
def show(session_id: SessionId) -> None:
    """Print a conversation."""
    records = read_records(_store().find(session_id).path)
    for message in Session(session_id=session_id, entries=records.entries).conversation():
        print(printable(_told(message)))


@command.command()
def rm(session_id: SessionId) -> None:
    """Remove a conversation from this machine."""
    stored = _store().find(session_id)
    stored.path.unlink()
    print(f"Removed {stored.id}.")


def _told(message: Message) -> str:
    match message:
        case UserMessage():
            return f"> {message.content}\n"
        case AssistantMessage():
            calls = [f"• {call.name} {call.arguments}" for call in message.tool_calls]
            return "\n".join([message.text, *calls]).strip() + "\n"
        case ToolMessage():
            mark = "! " if message.is_error else "  "
            return "".join(f"{mark}{line}\n" for line in message.content.splitlines())
