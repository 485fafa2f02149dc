"""`python -m benchmarks.client`: what `qcode run` itself costs, beside what other clients cost.

The real command does scripted work against a server on loopback that answers at once, so all time
is the command's own; its sessions are written and synced to the disk as always. Figures with `cpu`
in their names are processor time, which a busy machine distorts less; `bare python` is the start
and end of an interpreter with asyncio, for a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.client import report
from benchmarks.client.measure import COMMAND, Measurement, bare_python_s, measure
from benchmarks.client.scenarios import (
    NUM_READS,
    NUM_TOKENS,
    Scenario,
    long_answer,
    long_session,
    repair,
)

PARTS = ("repair", "session", "answer")
BYTES_PER_TOKEN = 3.5
"""Fewer than any vocabulary measured takes for our requests: the estimate is on the safe side."""


def main() -> None:
    arguments = _parser().parse_args()
    command = shlex.split(arguments.command) if arguments.command else COMMAND

    def run(scenario: Scenario) -> Measurement:
        return measure(scenario, command=command, folder=arguments.folder)

    figures: report.Figures = {}
    parts = arguments.part or PARTS
    run(repair())  # writes bytecode, fills the page cache
    if "repair" in parts:
        bare_s = []
        runs = []
        for _ in range(arguments.runs):
            bare_s.append(bare_python_s())
            runs.append(run(repair()))
        figures.update(report.repair_figures(runs))
        figures["bare_python_s"] = statistics.median(bare_s)
        figures["request_tokens"] = _counter(arguments.vocabulary)(runs[0].first_request)
    if "session" in parts:
        figures.update(report.session_figures(run(long_session(arguments.reads))))
    if "answer" in parts:
        figures.update(report.answer_figures(run(long_answer(arguments.tokens))))
    load = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps({"figures": figures, "load": load}, indent=1))
        return
    print(report.beside_targets(figures))
    print(f"\n{report.table(figures)}")
    how = f"by {arguments.vocabulary.name}" if arguments.vocabulary else "estimated from its bytes"
    print(f"\nTokens of the first request {how}; the peers' by o200k_base, on another machine.")
    print(f"Load of this machine at the end: {load:.1f} on {os.cpu_count()} cores.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeatable")
    parser.add_argument("--runs", type=int, default=5, help="runs of the repair (median)")
    parser.add_argument("--reads", type=int, default=NUM_READS, help="of the long session")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="of the long answer")
    parser.add_argument("--command", help="another qcode, as a command line")
    parser.add_argument("--vocabulary", type=Path, help="a .gguf file to count tokens by")
    parser.add_argument("--folder", type=Path, help="where to work; default: temporary files")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _counter(model: Path | None) -> Callable[[bytes], int]:
    """Counts the tokens of a request as JSON, the way the peers' were counted."""
    if model is None:
        return lambda body: round(len(body) / BYTES_PER_TOKEN)
    from qcode.engine.checkpoint.open import open_checkpoint
    from qcode.engine.models.loading import load_tokenizer

    tokenizer = load_tokenizer(open_checkpoint(model))
    return lambda body: len(tokenizer.encode_prompt([(body.decode(), False)]))


if __name__ == "__main__":
    main()
