"""`qcode model score`: how well a model predicts a text."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from qcode.cli.exit_codes import INTERRUPTED
from qcode.cli.flags import ContextFlag
from qcode.cli.installed_models import installed_path
from qcode.cli.logs import configure_logging
from qcode.cli.model_flags import (
    DtypeFlag,
    JsonFlag,
    KVDtypeFlag,
    ModelArgument,
    ThreadsFlag,
    engine_options,
)
from qcode.cli.prompt_input import read_file_or_stdin
from qcode.config.locations import Locations
from qcode.engine.memory.context_window import context_notice
from qcode.frontends.progress import Progress
from qcode.protocol.errors import BadInput

if TYPE_CHECKING:
    from qcode.engine.engine import Engine


def score(
    model: ModelArgument,
    file: Annotated[
        str, typer.Option("--file", metavar="TEXT", help="The text's file; `-`: standard input.")
    ],
    as_json: JsonFlag = False,
    context: ContextFlag = None,
    kv_dtype: KVDtypeFlag = "auto",
    dtype: DtypeFlag = "auto",
    threads: ThreadsFlag = None,
) -> None:
    """Tell how well a model predicts a text.

    Prints the number of tokens and their mean negative log-likelihood, in nats.

    The first token is given, not scored. A text longer than the context is scored in windows that
    overlap by half, each token once, with at least half a context before it.
    """
    configure_logging(Locations.from_environment(os.environ).log, verbose=False)
    path = installed_path(model)
    text = read_file_or_stdin(file, sys.stdin)
    options = engine_options(context=context, kv_dtype=kv_dtype, dtype=dtype, threads=threads)
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    progress.live_line("loading the model")
    # Loads torch, so not before the text could be read.
    from qcode.engine.checkpoint.open import open_checkpoint
    from qcode.engine.engine import Engine

    if notice := context_notice(open_checkpoint(path).config, context):
        progress.line(notice)
    engine = Engine.load(
        path, options, lambda share: progress.live_line(f"loading the model: {share:.0%}")
    )
    ids = engine.loaded.tokenizer.encode(text)
    if len(ids) < 2:
        raise BadInput(f"The text has {len(ids)} tokens; at least 2 are needed.")
    began_s = time.monotonic()
    try:
        total = -math.fsum(_log_probabilities(engine, ids, progress))
    except KeyboardInterrupt:
        progress.line("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.monotonic() - began_s
    progress.clear_live()
    mean = total / (len(ids) - 1)
    if as_json:
        record = {
            "model": model,
            "path": str(path),
            "tokens": len(ids),
            "mean_nll": mean,
            "perplexity": math.exp(mean),
            "context_window": engine.context_window,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(record, indent=1))
        return
    print(f"tokens      {len(ids):,}")
    print(f"mean NLL    {mean:.4f}")
    print(f"perplexity  {math.exp(mean):.3f}")
    progress.line(f"{len(ids) / seconds:,.0f} tokens/s")


def _log_probabilities(engine: Engine, ids: Sequence[int], progress: Progress) -> Iterator[float]:
    for start, end, first_new in windows(len(ids), engine.context_window):
        engine.submit_score(ids[start:end])
        scores: list[float] = []
        while engine.has_work:
            for output in engine.step():
                scores += output.scores
            done = max(first_new, start + len(scores))
            progress.live_line(f"scoring: {done:,} of {len(ids):,} tokens")
        # scores[i] is that of token start + i + 1.
        yield from scores[first_new - start - 1 :]


def windows(num_tokens: int, context_window: int) -> Iterator[tuple[int, int, int]]:
    """Ranges [start, end) no longer than the context, and the first token of each that no earlier
    range has scored. Together they score every token but the first, once."""
    end = min(num_tokens, context_window)
    yield 0, end, 1
    while end < num_tokens:
        first_new = end
        end = min(num_tokens, end + context_window - context_window // 2)
        yield end - context_window, end, first_new
