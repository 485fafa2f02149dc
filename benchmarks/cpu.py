"""Our engine beside llama.cpp on the CPU: `python -m benchmarks.cpu MODEL.gguf`.

Each engine is loaded in a process of its own with the same number of threads. The rounds of the two
alternate, so whatever else the machine does disturbs both: trust the ratio more than the figures.
On a machine that is busy with other work, `--threads 1 --clock cpu` counts only our own time.
Without llama-cpp-python only our engine is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

SHORT_PROMPT = 16
NUM_IDS = 150_000
"""Prompts are random ids below this, which every Qwen vocabulary holds."""

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Subject(Protocol):
    """An engine with its model loaded."""

    def prefill(self, prompt: Sequence[int]) -> float:
        """Seconds from a prompt to the first token."""
        ...

    def decode(self, prompt: Sequence[int], count: int) -> list[float]:
        """Seconds of each of `count` single-token steps after a prompt."""
        ...


class Qcode:
    """Our engine, greedy, without reuse of prefixes."""

    def __init__(self, model: Path, threads: int, clock: Clock) -> None:
        from qcode.engine.engine import Engine
        from qcode.engine.options import EngineOptions
        from qcode.protocol.sampling import SamplingParams

        self._clock = clock
        self._sampling: Callable[[int], SamplingParams] = lambda count: SamplingParams(
            temperature=0, repetition_penalty=1.0, max_tokens=count
        )
        options = EngineOptions(num_threads=threads, prefix_reuse=False, context_window=4096)
        self._engine = Engine.load(model, options)

    def prefill(self, prompt: Sequence[int]) -> float:
        start = self._clock()
        self._engine.submit(prompt, self._sampling(1))
        while self._engine.has_work:
            self._engine.step()
        return self._clock() - start

    def decode(self, prompt: Sequence[int], count: int) -> list[float]:
        times: list[float] = []
        while len(times) < count:  # an end-of-text token may cut an answer short
            self._engine.submit(prompt, self._sampling(count + 1))
            self._engine.step()
            while self._engine.has_work:
                start = self._clock()
                self._engine.step()
                times.append(self._clock() - start)
            prompt = [*prompt[1:], prompt[0]]
        return times[:count]


class LlamaCpp:
    """llama.cpp through the low-level interface of llama-cpp-python, with its default options."""

    def __init__(self, model: Path, threads: int, clock: Clock) -> None:
        import llama_cpp

        self._clock = clock
        self._api = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silence, None)
        llama_cpp.llama_backend_init()
        loaded = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch = 4096, 2048
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(loaded, options)

    def prefill(self, prompt: Sequence[int]) -> float:
        memory = self._api.llama_get_memory(self._context)
        self._api.llama_memory_clear(memory, True)
        return self._evaluate(prompt, 0)

    def decode(self, prompt: Sequence[int], count: int) -> list[float]:
        self.prefill(prompt)
        return [self._evaluate([prompt[i % 16]], len(prompt) + i) for i in range(count)]

    def _evaluate(self, ids: Sequence[int], first_position: int) -> float:
        batch = self._api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first_position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        start = self._clock()
        if self._api.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        self._api.llama_get_logits(self._context)
        seconds = self._clock() - start
        self._api.llama_batch_free(batch)
        return seconds


SUBJECTS: dict[str, Callable[[Path, int, Clock], Subject]] = {"qcode": Qcode, "llama.cpp": LlamaCpp}


def serve(name: str, model: Path, threads: int, clock: Clock) -> None:
    """Load one engine, then answer requests from standard input, a JSON line each."""
    start = clock()
    subject = SUBJECTS[name](model, threads, clock)
    reply("load_s", [clock() - start])
    for line in sys.stdin:
        request = json.loads(line)
        prompt = request["prompt"]
        if request["kind"] == "prefill":
            reply("seconds", [subject.prefill(prompt)])
        else:
            reply("seconds", subject.decode(prompt, request["count"]))
    reply("peak_mib", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])


def reply(name: str, values: Sequence[float]) -> None:
    print(json.dumps({name: list(values)}), flush=True)


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, model: Path, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.cpu", str(model), "--serve", name]
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = name
        self.load_s = self._read()["load_s"][0]
        self.prefill_s: list[float] = []
        self.decode_s: list[float] = []

    def ask(self, kind: str, prompt: Sequence[int], count: int = 0) -> list[float]:
        assert self._process.stdin
        request = {"kind": kind, "prompt": list(prompt), "count": count}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()["seconds"]

    def close(self) -> float:
        """End the process; its peak resident memory in MiB."""
        assert self._process.stdin
        self._process.stdin.close()
        peak = self._read()["peak_mib"][0]
        self._process.wait()
        return peak

    def _read(self) -> dict[str, list[float]]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}")
        answer: dict[str, list[float]] = json.loads(line)
        return answer


def measure(workers: Sequence[Worker], rounds: int, prompt_tokens: int, answer_tokens: int) -> None:
    numbers = random.Random(0)
    for worker in workers:
        worker.ask("prefill", range(1000, 1032))
    for _ in range(rounds):
        prompt = [numbers.randrange(NUM_IDS) for _ in range(prompt_tokens)]
        for worker in workers:
            worker.prefill_s += worker.ask("prefill", prompt)
        for worker in workers:
            worker.decode_s += worker.ask("decode", prompt[:SHORT_PROMPT], answer_tokens)


def report(workers: Sequence[Worker], prompt_tokens: int) -> None:
    rows: dict[str, list[float]] = {
        f"prefill {prompt_tokens}, tokens/s": [
            prompt_tokens / statistics.median(worker.prefill_s) for worker in workers
        ],
        "decode, tokens/s": [1 / statistics.median(worker.decode_s) for worker in workers],
        "decode best, tokens/s": [1 / min(worker.decode_s) for worker in workers],
        "load, s": [worker.load_s for worker in workers],
        "peak memory, MiB": [worker.close() for worker in workers],
    }
    print(f"{'':24}" + "".join(f"{worker.name:>12}" for worker in workers) + "       ratio")
    for name, values in rows.items():
        ratio = f"{values[0] / values[1]:12.2f}" if len(values) > 1 else ""
        print(f"{name:24}" + "".join(f"{value:12.2f}" for value in values) + ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--only", choices=list(SUBJECTS))
    parser.add_argument("--serve", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.model, options.threads, CLOCKS[options.clock])
        return
    names = [options.only] if options.only else list(SUBJECTS)
    if importlib.util.find_spec("llama_cpp") is None:
        names = ["qcode"]
    arguments = ["--threads", str(options.threads), "--clock", options.clock]
    workers = [Worker(name, options.model, arguments) for name in names]
    measure(workers, options.rounds, options.prompt_tokens, options.answer_tokens)
    report(workers, options.prompt_tokens)


if __name__ == "__main__":
    main()
