"""`qcode demo`: a model fixes a real failing test in a small sample project, while you watch."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
from importlib import resources
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from qcode.assembly import open_agent
from qcode.cli.app import obtain_model
from qcode.cli.exit_codes import exit_code
from qcode.cli.flags import BaseUrlFlag, ModelFlag, setting_flags
from qcode.cli.interruption import Interruption
from qcode.config.options import RunOptions, SessionChoice
from qcode.frontends.headless_approval import RefusingApprover
from qcode.frontends.repl.app import show_turn
from qcode.frontends.repl.transcript import Transcript
from qcode.protocol.events import TurnFinished
from qcode.protocol.permissions import Mode

PROMPT = "fix the failing test"
command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Watch qcode fix a failing test in a small sample project.",
)


@command.command()
def demo(
    model: ModelFlag = None,
    base_url: BaseUrlFlag = None,
) -> None:
    """Watch qcode fix a failing test in a small sample project."""
    console = Console()
    folder = _sample_project()
    _introduce(console, folder)
    flags = setting_flags(model=model, base_url=base_url)
    flags |= {"approval_mode": Mode.AUTO_EDIT, "allow": _allowed()}
    options = RunOptions(
        cwd=folder, prompt=PROMPT, flags=flags, session=SessionChoice(kind="ephemeral")
    )
    finished, signal_number = asyncio.run(_run(console, options))
    _conclude(console, folder, finished)
    raise typer.Exit(exit_code(finished, signal_number=signal_number))


async def _run(console: Console, options: RunOptions) -> tuple[TurnFinished, int | None]:
    interruption = Interruption()

    def tell(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    agent = await asyncio.to_thread(
        open_agent, options, RefusingApprover(tell), obtain=obtain_model, tell=tell
    )
    interruption.cancels(agent.cancel)
    try:
        with Transcript(console) as transcript:
            finished = await show_turn(transcript, agent.run(options.prompt))
    finally:
        await agent.backend.aclose()
    assert finished is not None, "a turn ends with TurnFinished"
    return finished, interruption.number


def _allowed() -> list[str]:
    """The sample is ours and lies in a folder made for it: its tests may run, nothing else."""
    active = Path(os.environ.get("VIRTUAL_ENV") or sys.prefix) / "bin" / "python"
    pythons = ("python3", "python", str(active), sys.executable)
    return [f"Bash({shlex.quote(python)} -m unittest:*)" for python in dict.fromkeys(pythons)]


def _sample_project() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="qcode-demo-"))
    for file in resources.files("qcode.cli").joinpath("demo_project").iterdir():
        if file.name.endswith(".py"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def _introduce(console: Console, folder: Path) -> None:
    console.print(Text("A small project with a failing test: ", "bold"), end="")
    console.print(Text(str(folder)), soft_wrap=True)
    console.print(Text(f'What you would type there: qcode run "{PROMPT}"\n', "dim"))


def _conclude(console: Console, folder: Path, finished: TurnFinished) -> None:
    if finished.reason == "completed":
        console.print(Text(f"\nThe fixed project stays in {folder}", "dim"), soft_wrap=True)
        console.print(Text(f'In a project of yours: qcode run "{PROMPT}"', "dim"))
