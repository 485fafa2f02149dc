"""Our engine beside llama.cpp on the CPU: `python -m benchmarks.cpu MODEL.gguf`.

Each engine runs in processes of its own with the same number of threads, and the two take turns, so
whatever else the machine does disturbs both: trust the ratio more than the figures. On a machine
that is busy with other work, `--threads 1 --clock cpu` counts only our own time. Without
llama-cpp-python only our engine is measured. Ctrl-C prints what there is so far. The sections:

load     a new process until the model is ready, and until a first token; where `qcode model
         optimize --beside` has written our file of packed weights, with it and without
prefill  random prompts of 512 and 2048 tokens
decode   one token at a time after 16 and 2048 tokens, without speculation
long     decode after 8192 tokens, once
session  an agent's session of 8 turns, as users have it: greedy answers of 120 tokens that partly
         copy a file, prefixes and speculation as they are by default; cold, and again in a new
         process (llama.cpp keeps nothing across processes: its cold figure counts again)
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from benchmarks.cpu.agent_session import agent_session
from benchmarks.cpu.measurements import LONG_LENGTH, SECTIONS, Run, lengths_of
from benchmarks.cpu.report import LEGEND, table
from benchmarks.cpu.subjects import CLOCKS, SUBJECTS
from benchmarks.cpu.worker import WorkerOptions
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.kernels.library import installed
from qcode.engine.measurement import ANSWER_TOKENS, NUM_PLAIN_IDS
from qcode.engine.memory.available import available_bytes
from qcode.engine.models.loading import load_tokenizer
from qcode.engine.options import PackedWeightsOptions
from qcode.engine.store.packed_models import packed_place
from qcode.engine.tokenizer import Tokenizer

COPIES_IN_MEMORY = 2.7
"""Of the file, with both engines running: one mapped, what each repacked, keys and values."""


def main() -> None:
    arguments = _parser().parse_args()
    names = list(SUBJECTS) if arguments.engine is None else [arguments.engine]
    if importlib.util.find_spec("llama_cpp") is None:
        print("llama-cpp-python is not installed: only qcode is measured", file=sys.stderr)
        names = ["qcode"]
    tokenizer = load_tokenizer(open_checkpoint(arguments.model))
    run = Run(
        names,
        WorkerOptions(model=arguments.model, threads=arguments.threads, clock=arguments.clock),
        num_ids=min(NUM_PLAIN_IDS, tokenizer.num_tokens),
        rounds=arguments.rounds,
        alone=arguments.model.stat().st_size * COPIES_IN_MEMORY > available_bytes(),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    try:
        _run_sections(run, arguments, tokenizer)
    except KeyboardInterrupt:
        print("interrupted: what was measured so far", file=sys.stderr)
    print(
        f"{arguments.model.name}, {arguments.threads} threads each, {arguments.rounds} rounds, "
        f"load of the machine at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    print(table(run.rows, names))
    print(f"\n{LEGEND}")


def _run_sections(run: Run, arguments: argparse.Namespace, tokenizer: Tokenizer) -> None:
    sections = arguments.only
    if "load" in sections:
        run.load(packed_file=_has_packed_file(arguments.model))
    if lengths := lengths_of(sections):
        run.prompts(lengths, arguments.rounds)
    if "long" in sections:
        run.prompts({LONG_LENGTH: ANSWER_TOKENS}, 1)
    if "session" in sections:
        run.session(agent_session(tokenizer))


def _has_packed_file(model: Path) -> bool:
    """Whether there is a file of packed weights that our engine would load."""
    library = installed()
    place = packed_place(model, library, PackedWeightsOptions()) if library else None
    return place is not None and place.open()[0] is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--only", type=_sections, default=SECTIONS, metavar="SECTION,...", help="some sections"
    )
    parser.add_argument("--engine", choices=list(SUBJECTS), help="one engine alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    return parser


def _sections(text: str) -> tuple[str, ...]:
    sections = tuple(text.split(","))
    if unknown := set(sections) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(SECTIONS)}")
    return sections


if __name__ == "__main__":
    main()
