"""`qcode model`: the models on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
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
from qcode.config.locations import Locations
from qcode.engine.model_catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueEntry, catalogue_entry
from qcode.engine.model_store import InstalledModel, ModelStore, PullProgress, model_record
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import ReasoningDelta, TextDelta
from qcode.protocol.errors import ModelStoreError
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.sandbox.terminal_text import printable

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="List, fetch and remove the models on this machine.",
)


def user_store() -> ModelStore:
    return ModelStore(Locations.from_environment(os.environ).models)


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
        console.print(f"Fetching {entry.title} ({_size(entry.size_bytes)}, {entry.license})")
        for line in _warnings(entry):
            console.print(line)
    if not console.is_terminal:
        return store.pull(name, _PlainProgress(console).report)
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
            done, total = _size(step.done_bytes), _size(step.total_bytes)
            self._console.print(f"  {tenths * 10} % ({done} of {total})", highlight=False)


@command.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the models that are installed, and those qcode knows by name."""
    installed = {model.name: model for model in user_store().installed()}
    if as_json:
        print(json.dumps([model_record(model) for model in installed.values()], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "SIZE", "STATE", "ABOUT"):
        table.add_column(title, no_wrap=title != "ABOUT")
    for entry in CATALOGUE:
        state = "installed" if installed.pop(entry.name, None) else _fit(entry)
        table.add_row(entry.name, _size(entry.size_bytes), state, entry.title)
    for model in installed.values():
        table.add_row(model.name, _size(model.size_bytes), "installed", str(model.path))
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


@command.command()
def info(
    name: Annotated[str, typer.Argument(help="An installed model, or a path.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what a model is: architecture, parameters, window, bytes."""
    from qcode.engine.checkpoint.open import open_checkpoint

    path = _installed_path(name)
    config = open_checkpoint(path).config
    facts: dict[str, object] = {
        "path": str(path),
        "architecture": config.architecture,
        "parameters": config.num_parameters,
        "active_parameters": config.num_active_parameters,
        "layers": config.num_layers,
        "context_window": config.context_window,
        "bytes": _bytes_on_disk(path),
        "kv_bytes_per_token": 2
        * 2
        * config.num_layers
        * config.num_key_value_heads
        * config.head_dim,
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        print(f"{key.replace('_', ' '):<20} {shown}")


@command.command("run")
def run_model(
    name: Annotated[str, typer.Argument(help="An installed model, or a path.")],
    prompt: Annotated[str, typer.Argument(help="What to say to it.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 is greedy; the model's own if not given.")
    ] = None,
) -> None:
    """Ask a model one thing, with no agent and no tools around it."""
    import asyncio

    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    request = ChatRequest(system="", messages=(UserMessage(content=prompt),), sampling=sampling)
    asyncio.run(_print_answer(_installed_path(name), name, request))


async def _print_answer(path: Path, name: str, request: ChatRequest) -> None:
    from contextlib import aclosing

    from qcode.backends.local import LocalBackend

    backend = LocalBackend(path, name=name)
    try:
        async with aclosing(backend.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, TextDelta | ReasoningDelta):
                    print(printable(chunk.text), end="", flush=True)
        print()
    finally:
        await backend.aclose()


@command.command()
def rm(name: Annotated[str, typer.Argument(help="An installed model.")]) -> None:
    """Delete an installed model."""
    model = user_store().remove(name)
    print(f"Removed {model.name} ({_size(model.size_bytes)}).")


def _installed_path(name: str) -> Path:
    path = user_store().resolve(name)
    if path is None:
        known = catalogue_entry(name) is not None
        hint = f"Fetch it: qcode model pull {name}" if known else "See: qcode model list"
        raise ModelStoreError(f"No model {name!r} is installed.", hint)
    return path


def _bytes_on_disk(path: Path) -> int:
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)


def _warnings(entry: CatalogueEntry) -> list[str]:
    lines = []
    memory = memory_bytes()
    if memory and memory < entry.memory_bytes:
        lines.append(
            f"  warning: it needs about {_size(entry.memory_bytes)} of memory;"
            f" this machine has {_size(memory)}"
        )
    if not entry.runs:
        lines.append("  warning: the bundled engine cannot run this format yet")
    return lines


def _fit(entry: CatalogueEntry) -> str:
    if not entry.runs:
        return "format not run yet"
    memory = memory_bytes()
    return "fits" if not memory or memory >= entry.memory_bytes else "too large here"


def memory_bytes() -> int:
    """The machine's memory, or 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def _size(num_bytes: int) -> str:
    if num_bytes >= 10**9:
        return f"{num_bytes / 10**9:.1f} GB"
    return f"{num_bytes / 10**6:.0f} MB"
