"""Each engine in a process of its own, asked over pipes with a line of JSON each way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.cpu.subjects import CLOCKS, SUBJECTS, Setup
from qcode.engine.measurement import Timing, anonymous_bytes, peak_rss_bytes

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`peak_mib` counts file pages too; `anonymous_mib` is the most seen after an answer."""

    peak_mib: float
    anonymous_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What every worker of a run has in common."""

    model: Path
    threads: int
    clock: str


class Worker:
    """An engine that is loading or ready. Close it, for its memory, or leave its `with`."""

    def __init__(
        self,
        name: str,
        options: WorkerOptions,
        *,
        context_window: int,
        prefix_folder: Path | None = None,
        uses_packed_file: bool = True,
    ) -> None:
        self.name = name
        request = {
            "name": name,
            "model": str(options.model),
            "threads": options.threads,
            "clock": options.clock,
            "context_window": context_window,
            "prefix_folder": None if prefix_folder is None else str(prefix_folder),
            "uses_packed_file": uses_packed_file,
        }
        self.started_s = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu.worker", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.load_s: float = self._read()["load_s"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def answer(self, prompt: Sequence[int], num_tokens: int) -> Timing:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([list(prompt), num_tokens]) + "\n")
        self._process.stdin.flush()
        return Timing(**self._read())

    def first_token_s(self, prompt: Sequence[int]) -> float:
        """Seconds from the start of the process to the first token of its first answer."""
        asked_s = time.perf_counter() - self.started_s
        return asked_s + self.answer(prompt, 1).prefill_s

    def close(self) -> Memory:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        memory = Memory(**self._read())
        self._process.wait()
        return memory

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(request: dict[str, Any]) -> None:
    """Loads one engine, then answers what comes on standard input until it ends."""
    clock = CLOCKS[request["clock"]]
    folder = request["prefix_folder"]
    setup = Setup(
        model=Path(request["model"]),
        threads=request["threads"],
        clock=clock,
        context_window=request["context_window"],
        prefix_folder=None if folder is None else Path(folder),
        uses_packed_file=request["uses_packed_file"],
    )
    began = clock()
    subject = SUBJECTS[request["name"]](setup)
    _write({"load_s": clock() - began})
    anonymous = 0
    for line in sys.stdin:
        prompt, num_tokens = json.loads(line)
        _write(asdict(subject.answer(prompt, num_tokens)))
        anonymous = max(anonymous, anonymous_bytes() or 0)
    subject.close()
    _write(asdict(Memory(peak_mib=peak_rss_bytes() / MIB, anonymous_mib=anonymous / MIB)))


def _write(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
