"""What a kept prefix saves: `python -m benchmarks.prefix_cache MODEL.gguf`.

The time to the first token of a prompt of about 6K tokens: with nothing known of it, with its
prefix in the memory of the same process, and in a new process with its prefix on disk. The ends of
the prompts differ, as tasks in the same project do. Loading the model is not in these times.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from qcode.engine.options import EngineOptions, PrefixCacheOptions
from qcode.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from qcode.engine.engine import Engine

NUM_ENDING_TOKENS = 24
MAX_BYTES = 100 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How long the first token took, and how much of the prompt was known."""

    first_token_s: float
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process."""

    load_s: float
    answers: tuple[Answer, ...]
    close_s: float
    """What ending took, with what was still to be written."""


def measure(model: Path, directory: Path, num_tokens: int, threads: int, tasks: list[int]) -> Run:
    """Ask, one after the other, for the first token of prompts that differ in their task."""
    from qcode.engine.engine import Engine

    cache = PrefixCacheOptions(directory=directory, max_bytes=MAX_BYTES)
    started = time.perf_counter()
    engine = Engine.load(model, EngineOptions(num_threads=threads, prefix_cache=cache))
    loaded = time.perf_counter()
    answers = []
    for task in tasks:
        prompt = _tokens(num_tokens, 0) + _tokens(NUM_ENDING_TOKENS, task)
        answers.append(_first_token(engine, prompt))
    ending = time.perf_counter()
    engine.close()
    return Run(
        load_s=loaded - started,
        answers=tuple(answers),
        close_s=time.perf_counter() - ending,
    )


def _first_token(engine: Engine, prompt: list[int]) -> Answer:
    started = time.perf_counter()
    engine.submit(prompt, SamplingParams(temperature=0, max_tokens=1))
    cached_tokens = 0
    while engine.has_work:
        for output in engine.step():
            if output.prefill is not None:
                cached_tokens = output.prefill.cached_tokens
    return Answer(first_token_s=time.perf_counter() - started, cached_tokens=cached_tokens)


def _tokens(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(1000, 100_000) for _ in range(count)]


def _in_new_process(arguments: argparse.Namespace, directory: Path, tasks: list[int]) -> Run:
    command = [sys.executable, "-m", "benchmarks.prefix_cache", str(arguments.model)]
    command += ["--tokens", str(arguments.tokens), "--threads", str(arguments.threads)]
    command += ["--directory", str(directory), "--tasks", *map(str, tasks)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    record = cast("dict[str, object]", json.loads(output))
    answers = cast("list[dict[str, float]]", record.pop("answers"))
    return Run(
        answers=tuple(
            Answer(
                first_token_s=answer["first_token_s"], cached_tokens=int(answer["cached_tokens"])
            )
            for answer in answers
        ),
        **cast("dict[str, float]", record),
    )


def _report(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "prefixes"
        first = _in_new_process(arguments, directory, [1, 2])
        second = _in_new_process(arguments, directory, [3])
        num_bytes = sum(file.stat().st_size for file in directory.glob("*/*.kv"))
    cold, memory, disk = *first.answers, second.answers[0]
    print(f"{arguments.model.name}, {arguments.tokens} tokens, {arguments.threads} threads")
    for name, answer in (("cold", cold), ("from memory", memory), ("from disk", disk)):
        ratio = cold.first_token_s / answer.first_token_s
        print(
            f"  {name:12} {answer.first_token_s:8.3f} s  {ratio:7.1f}x  "
            f"{answer.cached_tokens} tokens known"
        )
    print(
        f"  on disk {num_bytes / 10**6:.0f} MB; loading the model {second.load_s:.2f} s; "
        f"ending with the prefix being written {first.close_s:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tasks is None:
        _report(arguments)
        return
    run = measure(
        arguments.model,
        arguments.directory,
        arguments.tokens,
        arguments.threads,
        arguments.tasks,
    )
    print(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
