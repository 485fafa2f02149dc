"""`qcode model cache`: what the bundled engine keeps on disk of what it has read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qcode.assembly.opening import load_settings
from qcode.cli.installed_models import user_store
from qcode.cli.quantities import bytes_text
from qcode.config.locations import Locations
from qcode.config.options import RunOptions
from qcode.engine.memory.prefix_store import StoredModel, clear, stored_models
from qcode.protocol.errors import ModelStoreError

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Show what is kept of prompts that were read, so that they are not read again.",
)

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@command.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show where the cache is, how large it is and what it holds."""
    if context.invoked_subcommand is not None:
        return
    directory = _directory()
    models = stored_models(directory)
    settings = load_settings(RunOptions(cwd=Path.cwd())).settings
    if as_json:
        print(json.dumps(_record(directory, models, settings.prefix_cache), indent=1))
        return
    total = sum(model.num_bytes for model in models)
    limit = settings.prefix_cache
    print(f"{directory}: {bytes_text(total)} of {limit}" if limit != "off" else f"{directory}: off")
    if not models:
        return
    table = Table(box=None, pad_edge=False)
    for title in ("MODEL", "KV", "FILES", "SIZE", "LAST USED"):
        is_number = title in ("FILES", "SIZE")
        # A model may be a long path: its column alone gives way on a narrow terminal.
        table.add_column(
            title,
            no_wrap=title != "MODEL",
            overflow="fold",
            justify="right" if is_number else "left",
        )
    for model in models:
        table.add_row(
            _name(model),
            model.kv_dtype,
            str(model.num_segments),
            bytes_text(model.num_bytes),
            age_text(time.time() - model.last_used),
        )
    Console().print(table)


@command.command("clear")
def clear_cache(
    model: Annotated[
        str | None, typer.Option("--model", help="Only what is kept for this model.")
    ] = None,
) -> None:
    """Delete what is kept. The next run reads its whole prompt again."""
    models = stored_models(_directory())
    if model is not None:
        models = [item for item in models if _is_of(item, model)]
        if not models:
            raise ModelStoreError(
                f"Nothing is kept for a model {model!r}.", "See: qcode model cache"
            )
    clear(models)
    print(f"Removed {bytes_text(sum(item.num_bytes for item in models))}.")


def age_text(seconds: float) -> str:
    """As people say it: 3 hours ago."""
    for unit_s, name in _UNITS:
        count = int(seconds // unit_s)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "now"


def _directory() -> Path:
    return Locations.from_environment(os.environ).prefixes


def _name(model: StoredModel) -> str:
    """By the name it is installed under, if it is; else its file."""
    for installed in user_store().installed():
        if str(installed.path) == model.model:
            return installed.name
    return model.model


def _is_of(stored: StoredModel, wanted: str) -> bool:
    path = Path(stored.model)
    return wanted in (_name(stored), stored.model, path.name, path.stem)


def _record(directory: Path, models: list[StoredModel], limit: str) -> dict[str, object]:
    return {
        "directory": str(directory),
        "limit": limit,
        "bytes": sum(model.num_bytes for model in models),
        "models": [
            {
                "model": _name(model),
                "kv_dtype": model.kv_dtype,
                "files": model.num_segments,
                "bytes": model.num_bytes,
                "last_used": model.last_used,
            }
            for model in models
        ],
    }
