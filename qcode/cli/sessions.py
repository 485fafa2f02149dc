"""`qcode session`: the stored conversations of this folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import cell_len, set_cell_size

from qcode.agent.session import Session
from qcode.agent.session_store import SessionStore, StoredSession, read_records
from qcode.config.locations import Locations
from qcode.config.options import SessionChoice
from qcode.protocol.messages import AssistantMessage, Message, ToolMessage, UserMessage
from qcode.sandbox.terminal_text import printable

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show and remove the stored conversations of this folder.",
)

MAX_CHOICES = 20

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
        print(f"{session.id}  {_when(session)}  {printable(session.title)}")


def choose_session(project: Path) -> SessionChoice:
    """Asks at the terminal which of a folder's conversations to go on with."""
    store = SessionStore(Locations.from_environment(os.environ).sessions, project.resolve())
    stored = store.list()[:MAX_CHOICES]
    if not stored:
        print("There is no earlier conversation in this folder; this is a new one.")
        return SessionChoice()
    width = max(shutil.get_terminal_size().columns - len("99  2000-01-31 23:59  "), 20)
    for number, session in enumerate(stored, start=1):
        title = shortened(printable(session.title), width)
        print(f"{number:>2}  {_when(session)}  {title}")
    while True:
        try:
            answer = input("Which one? A number, or Enter for a new conversation: ").strip()
        except EOFError:
            answer = ""
        if not answer:
            return SessionChoice()
        if answer.isdecimal() and 1 <= int(answer) <= len(stored):
            return SessionChoice(kind="resume", session_id=stored[int(answer) - 1].id)
        print(f"There are 1 to {len(stored)}.")


def shortened(title: str, width: int) -> str:
    """The title in at most so many terminal columns."""
    line = " ".join(title.split())
    return set_cell_size(line, width - 1).rstrip() + "…" if cell_len(line) > width else line


def _when(session: StoredSession) -> str:
    return session.modified.astimezone().strftime("%Y-%m-%d %H:%M")


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
