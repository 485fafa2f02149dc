"""`qcode model bench`: how fast a model runs on this machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from qcode.cli.exit_codes import INTERRUPTED
from qcode.cli.installed_models import installed_path
from qcode.cli.logs import configure_logging
from qcode.cli.model_flags import JsonFlag, ModelArgument
from qcode.config.locations import Locations
from qcode.engine.options import MAX_THREADS, EngineOptions
from qcode.frontends.progress import Progress

_CONTEXT_WINDOW = 4096
_TITLES = {
    "prefill_512": "prefill of 512 tokens, tokens/s",
    "prefill_2048": "prefill of 2048 tokens, tokens/s",
    "decode": "decode, tokens/s",
    "decode_2k": "decode after 2048 tokens, tokens/s",
    "load_s": "load, s",
    "peak_rss_mib": "peak memory, MiB",
}


def bench(
    model: ModelArgument,
    as_json: JsonFlag = False,
    threads: Annotated[
        int, typer.Option("--threads", min=1, max=MAX_THREADS, help="How many to compute with.")
    ] = 2,
) -> None:
    """Measure how fast a model runs here: reading a prompt, writing an answer, loading.

    Each figure is the median of three. Prompts are random; speculation and cached prefixes, which
    make real work faster, are off.
    """
    configure_logging(Locations.from_environment(os.environ).log, verbose=False)
    path = installed_path(model)
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    # Loads torch.
    from qcode.engine.engine import Engine
    from qcode.engine.measurement import measure

    options = EngineOptions(
        num_threads=threads,
        context_window=_CONTEXT_WINDOW,
        max_sequences=1,
        prefix_reuse=False,
        speculation="off",
    )
    try:
        measured = measure(lambda: Engine.load(path, options), progress.live_line)
    except KeyboardInterrupt:
        progress.line("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    progress.clear_live()
    figures = asdict(measured)
    if as_json:
        record = {"model": model, "path": str(path), "threads": threads}
        print(json.dumps(record | {key: round(value, 3) for key, value in figures.items()}))
        return
    for key, value in figures.items():
        print(f"{_TITLES[key]:<34}{value:>10,.1f}")
