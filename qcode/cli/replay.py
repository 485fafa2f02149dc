"""`qcode replay`: run a stored session again and report the first difference."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from qcode.agent.attempt_folders import AttemptFolders
from qcode.agent.replay import NoModel, Replay
from qcode.agent.session import Entry
from qcode.agent.session_store import SessionStore, read_records
from qcode.assembly import open_agent
from qcode.cli.app import obtain_model
from qcode.cli.exit_codes import FAILED, OK, exit_code
from qcode.cli.flags import (
    AllowFlag,
    BaseUrlFlag,
    DenyFlag,
    ModelFlag,
    VerboseFlag,
    YoloFlag,
    chosen_mode,
    setting_flags,
)
from qcode.cli.logs import configure_logging
from qcode.config.locations import Locations
from qcode.config.options import RunOptions, SessionChoice
from qcode.frontends.headless_approval import RefusingApprover
from qcode.frontends.progress import Progress
from qcode.protocol.errors import SessionError
from qcode.protocol.events import TurnFinished
from qcode.sandbox.terminal_text import printable

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Run a stored session again and report the first difference.",
)


@command.command()
def replay(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="An id, enough of one, or a session's file."),
    ],
    live: Annotated[
        bool,
        typer.Option("--live", help="Run the tools afresh, in a copy of this folder."),
    ] = False,
    until: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after the model's Nth answer.")
    ] = None,
    model: ModelFlag = None,
    base_url: BaseUrlFlag = None,
    allow: AllowFlag = None,
    deny: DenyFlag = None,
    yolo: YoloFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Run a stored session again and report the first difference.

    Without options everything comes from the record, and what is checked is that the same
    requests would be made of it. --model or --base-url: each answer is asked for again, with the
    recorded conversation, sampling and seed. --live: tools run again, by the same permission rules
    as in qcode run. Exit code 0: the same; 1: different.
    """
    locations = Locations.from_environment(os.environ)
    configure_logging(locations.log, verbose=verbose)
    flags = setting_flags(
        model=model,
        base_url=base_url,
        allow=allow,
        deny=deny,
        approval_mode=chosen_mode(None, yolo=yolo),
    )
    strategy = Replay(
        record=_entries(session, locations.sessions),
        ask=model is not None or base_url is not None,
        live=live,
        until=until,
    )
    if not live:
        finished = asyncio.run(_play(strategy, flags, Path.cwd().resolve()))
    else:
        finished = _in_copy(strategy, flags)
    if finished.reason != "completed":
        raise typer.Exit(exit_code(finished))
    print(printable(strategy.done.report()))
    raise typer.Exit(OK if strategy.done.difference is None else FAILED)


def _entries(session: str, sessions: Path) -> tuple[Entry, ...]:
    path = Path(session)
    if not path.is_file():
        path = SessionStore(sessions, Path.cwd().resolve()).find(session).path
    records = read_records(path)
    if records.num_damaged:
        raise SessionError(
            f"{records.num_damaged} records of {path.name} are damaged.",
            hint="What is missing cannot be run again.",
        )
    return records.entries


def _in_copy(strategy: Replay, flags: dict[str, object]) -> TurnFinished:
    folders = AttemptFolders(Path.cwd())
    try:
        folders.prepare()
        folder = folders.create()
        strategy.moved = (folders.root, folder)
        return asyncio.run(_play(strategy, flags, folder))
    finally:
        folders.remove()


async def _play(strategy: Replay, flags: dict[str, object], folder: Path) -> TurnFinished:
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    options = RunOptions(cwd=folder, flags=flags, session=SessionChoice(kind="ephemeral"))
    agent = await asyncio.to_thread(
        open_agent,
        options,
        RefusingApprover(progress.line),
        obtain=obtain_model if sys.stderr.isatty() else None,
        tell=progress.line,
        backend=None if strategy.ask else NoModel(),
    )
    finished = TurnFinished(reason="failed")
    try:
        async with aclosing(agent.play(strategy)) as events:
            async for event in events:
                progress.show(event)
                if isinstance(event, TurnFinished):
                    finished = event
    finally:
        await agent.backend.aclose()
    return finished
