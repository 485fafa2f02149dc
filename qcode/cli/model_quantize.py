"""`qcode model quantize`: a model in another number format."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from qcode.cli.exit_codes import INTERRUPTED, SIGNAL
from qcode.cli.installed_models import installed_path
from qcode.cli.model_flags import ModelArgument
from qcode.cli.quantities import bytes_text
from qcode.engine.conversion.formats import FORMATS
from qcode.sandbox.terminal_text import printable

BF16_BITS = 16


def quantize(
    model: ModelArgument,
    target: Annotated[
        Path, typer.Argument(help="What to write: a .gguf file, or a folder of safetensors.")
    ],
    format_name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="One of the formats below.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the target if it exists.")
    ] = False,
) -> None:
    """Write a model in another number format, usually a smaller one.

    Reads every format qcode runs. The target appears under its name when it is whole.
    """
    source = installed_path(model)
    # Loads torch.
    from qcode.engine.conversion.quantize import quantize_checkpoint

    began = time.monotonic()
    try:
        with _ended_by_signals(), _progress_bar() as progress:
            written = quantize_checkpoint(
                source, target.expanduser(), format_name, replace=force, progress=progress
            )
    except KeyboardInterrupt:
        print("\nStopped. Nothing was written.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(printable(str(written.path)))
    print(
        f"{bytes_text(written.num_bytes)}, {written.bits_per_weight:.2f} bits a weight, "
        f"{time.monotonic() - began:.0f} s"
    )


def format_list() -> str:
    """A line for each format, for the end of the help."""
    lines = [
        f"  {output.name:<8} {100 * output.bits / BF16_BITS:>4.0f} %  {output.about}"
        for output in FORMATS.values()
    ]
    return "\n".join(("\b", "Formats, and about how large they are beside bfloat16:", *lines))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal or a polite kill ends the command like Ctrl-C: by cleaning up."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise typer.Exit(SIGNAL + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress_bar() -> Iterator[Callable[[float], None]]:
    """On stderr; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=40), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
