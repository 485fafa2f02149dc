"""`qcode model`: the models on this machine. Larger commands have a module each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from qcode.cli.exit_codes import INTERRUPTED
from qcode.cli.installed_models import user_store
from qcode.cli.model_bench import bench
from qcode.cli.model_cache import command as cache
from qcode.cli.model_info import info
from qcode.cli.model_optimize import optimize, pack_after_pull
from qcode.cli.model_quantize import format_list, quantize
from qcode.cli.model_run import run
from qcode.cli.model_score import score
from qcode.cli.quantities import bytes_text
from qcode.engine.memory.available import total_bytes
from qcode.engine.store.model_catalogue import (
    CATALOGUE,
    DEFAULT_MODEL,
    CatalogueEntry,
    catalogue_entry,
)
from qcode.engine.store.model_store import InstalledModel, ModelStore, PullProgress, model_record
from qcode.engine.store.packed_names import packed_beside
from qcode.protocol.errors import ModelStoreError

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="List, fetch, run, score, measure and quantize models.",
)


def pull_with_progress(
    store: ModelStore, name: str, stopped: Callable[[], bool] = lambda: False
) -> InstalledModel:
    """Fetches a model while a bar on stderr shows size, speed and the time left, until `stopped`.

    Raises ModelStoreError.
    """

    def check_stopped() -> None:
        if stopped():
            raise ModelStoreError(
                "The download was stopped.", f"It goes on from there with: qcode model pull {name}"
            )

    console = Console(stderr=True)
    entry = catalogue_entry(name)
    if entry is not None:
        console.print(f"Fetching {entry.title} ({bytes_text(entry.size_bytes)}, {entry.license})")
        if warning := _warning(entry):
            console.print(warning)
    if not console.is_terminal:
        model = store.pull(name, _PlainProgress(console).report)
        pack_after_pull(model)
        return model
    columns = (
        TextColumn("  "),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=entry.size_bytes if entry else None, start=True)

        def report(step: PullProgress) -> None:
            check_stopped()
            if step.note:
                console.print(f"  {step.note}", highlight=False)
            else:
                progress.update(task, completed=step.done_bytes, total=step.total_bytes)

        model = store.pull(name, report)
    pack_after_pull(model)
    console.print(f"  {model.name} is ready: {model.path}", highlight=False, soft_wrap=True)
    return model


class _PlainProgress:
    """Progress for a log file: notes, and a line at each tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenths = 0

    def report(self, step: PullProgress) -> None:
        if step.note:
            self._console.print(f"  {step.note}", highlight=False, soft_wrap=True)
            return
        tenths = step.done_bytes * 10 // max(step.total_bytes, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            done, total = bytes_text(step.done_bytes), bytes_text(step.total_bytes)
            self._console.print(f"  {tenths * 10} % ({done} of {total})", highlight=False)


@command.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show installed models, and those known by name."""
    installed = {model.name: model for model in user_store().installed()}
    if as_json:
        records = [
            model_record(model) | {"packed_bytes": _packed_bytes(model)}
            for model in installed.values()
        ]
        print(json.dumps(records, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "SIZE", "STATE", "ABOUT"):
        table.add_column(
            title, no_wrap=title != "ABOUT", justify="right" if title == "SIZE" else "left"
        )
    for entry in CATALOGUE:
        model = installed.pop(entry.name, None)
        state = _state(model) if model else _fit(entry)
        table.add_row(entry.name, bytes_text(entry.size_bytes), state, entry.title)
    for model in installed.values():
        table.add_row(model.name, bytes_text(model.size_bytes), _state(model), str(model.path))
    Console().print(table)


@command.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(help="A name from `qcode model list`, OWNER/REPO[:FILE], or a URL."),
    ] = DEFAULT_MODEL,
) -> None:
    """Fetch a model. An interrupted pull goes on where it stopped."""
    try:
        model = pull_with_progress(user_store(), name)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(model.path)


command.command("info")(info)
command.command("run")(run)
command.command("score")(score)
command.add_typer(cache, name="cache")
command.command("bench")(bench)
command.command("optimize")(optimize)
command.command("quantize", epilog=format_list())(quantize)


@command.command()
def rm(name: Annotated[str, typer.Argument(help="An installed model.")]) -> None:
    """Delete an installed model."""
    store = user_store()
    packed = _packed_bytes(store.find(name))
    model = store.remove(name)
    print(f"Removed {model.name} ({bytes_text(model.size_bytes + packed)}).")


def _packed_bytes(model: InstalledModel | None) -> int:
    """Of files beside the model, which go with it."""
    if model is None or model.path.is_dir():
        return 0
    return sum(file.stat().st_size for file in packed_beside(model.path))


def _warning(entry: CatalogueEntry) -> str:
    """Where the memory is too small for the model; else nothing."""
    memory = total_bytes()
    if memory >= entry.memory_bytes:
        return ""
    return (
        f"  warning: it needs about {bytes_text(entry.memory_bytes)} of memory;"
        f" this machine has {bytes_text(memory)}"
    )


def _state(model: InstalledModel) -> str:
    packed = _packed_bytes(model)
    return f"installed, and {bytes_text(packed)} packed" if packed else "installed"


def _fit(entry: CatalogueEntry) -> str:
    return "fits" if total_bytes() >= entry.memory_bytes else "over memory"
