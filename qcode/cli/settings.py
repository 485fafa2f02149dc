"""`qcode settings`: every value and where it comes from; which folders are trusted."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from qcode.backends.base_url import without_user
from qcode.config.locations import Locations, project_settings
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.config.sources import load_settings
from qcode.config.trust import distrust, trust
from qcode.sandbox.terminal_text import printable

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Show every setting, its value and where that comes from.",
)

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="This folder, unless given.")]


@command.callback()
def show(
    context: typer.Context,
    explain: Annotated[bool, typer.Option("--explain", help="Also say what each is for.")] = False,
) -> None:
    """Show every setting, its value and where that comes from."""
    if context.invoked_subcommand is not None:
        return
    locations = Locations.from_environment(os.environ)
    loaded = load_settings(RunOptions(cwd=Path.cwd()), environment=os.environ, locations=locations)
    for notice in loaded.notices:
        print(printable(notice), file=sys.stderr)
    for name, field in Settings.model_fields.items():
        value = _shown(getattr(loaded.settings, name))
        value = without_user(value) if name == "base_url" else value
        print(printable(f"{name} = {value}  ({loaded.origin(name)})"))
        if explain:
            print(f"    {field.description}")
    print(f"\nYour settings file: {locations.user_settings}")


@command.command("trust")
def trust_folder(folder: Folder = Path()) -> None:
    """Let a folder's own .qcode/config.toml count. Read it first."""
    trust(folder, Locations.from_environment(os.environ))
    print(f"{folder.resolve()} is trusted: {project_settings(folder.resolve())} counts.")


@command.command("distrust")
def distrust_folder(folder: Folder = Path()) -> None:
    """Ignore a folder's own settings again."""
    distrust(folder, Locations.from_environment(os.environ))
    print(f"{folder.resolve()} is not trusted: its settings are ignored.")


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case SecretStr():
            return "********"
        case dict():
            return ", ".join(value) or "-"
        case tuple():
            return "[" + ", ".join(repr(item) for item in value) + "]"
        case _:
            return str(value)
