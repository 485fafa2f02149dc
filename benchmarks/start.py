"""Measures the start: from the beginning of a process to the end of the first prefill step.

`python -m benchmarks.start MODEL.gguf`

Each figure is the median of several processes, ours and llama.cpp's in turns. The file is in the
page cache after the first, which does not count; `qcode model optimize --beside` before makes our
side map its packed weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

NUM_TOKENS = 16
PROMPT = range(1000, 1000 + NUM_TOKENS)
CONTEXT_WINDOW = 4096
STAGES = ("interpreter", "libraries", "load", "prefill")


def measure_qcode(model: Path, threads: int) -> dict[str, float]:
    """When each stage ended, on the clock that all processes share."""
    ends = {"interpreter": time.monotonic()}
    # As the qcode command does.
    import gc

    gc.set_threshold(100_000)
    from qcode.engine.engine import Engine
    from qcode.engine.options import EngineOptions
    from qcode.protocol.sampling import SamplingParams

    ends["libraries"] = time.monotonic()
    options = EngineOptions(num_threads=threads, context_window=CONTEXT_WINDOW, max_sequences=1)
    engine = Engine.load(model, options)
    ends["load"] = time.monotonic()
    engine.submit(list(PROMPT), SamplingParams(temperature=0, max_tokens=1))
    while engine.has_work:
        engine.step()
    ends["prefill"] = time.monotonic()
    return ends


def measure_llama_cpp(model: Path, threads: int) -> dict[str, float]:
    ends = {"interpreter": time.monotonic()}
    import llama_cpp

    ends["libraries"] = time.monotonic()
    llama = llama_cpp.Llama(
        str(model), n_ctx=CONTEXT_WINDOW, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    ends["load"] = time.monotonic()
    llama.eval(list(PROMPT))
    ends["prefill"] = time.monotonic()
    return ends


SUBJECTS = {"qcode": measure_qcode, "llama.cpp": measure_llama_cpp}


def run_once(subject: str, model: Path, threads: int) -> dict[str, float]:
    """Seconds of each stage, in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.start", str(model), "--subject", subject]
    result = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=True
    )
    ends: Mapping[str, float] = json.loads(result.stdout.splitlines()[-1])
    seconds: dict[str, float] = {}
    before = began
    for stage in STAGES:
        seconds[stage] = ends[stage] - before
        before = ends[stage]
    return seconds | {"all": before - began}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--subject", choices=tuple(SUBJECTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        print(json.dumps(SUBJECTS[arguments.subject](arguments.model, arguments.threads)))
        return
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in SUBJECTS}
    for _ in range(arguments.runs + 1):
        for name, runs in figures.items():
            runs.append(run_once(name, arguments.model, arguments.threads))
    print(f"{'seconds':<14}" + "".join(f"{name:>12}" for name in SUBJECTS))
    for stage in (*STAGES, "all"):
        medians = (median(run[stage] for run in runs[1:]) for runs in figures.values())
        print(f"{stage:<14}" + "".join(f"{seconds:>12.2f}" for seconds in medians))


if __name__ == "__main__":
    main()
