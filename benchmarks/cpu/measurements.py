"""The sections of a run. In each, the engines take turns, so that whatever else the machine does
disturbs both alike."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.cpu.agent_session import CONTEXT_WINDOW, AgentSession, run_session
from benchmarks.cpu.worker import Memory, Worker, WorkerOptions
from qcode.engine.measurement import (
    ANSWER_TOKENS,
    SHORT_PROMPT,
    WARM_UP_TOKENS,
    Timing,
    random_prompts,
)

SECTIONS = ("load", "prefill", "decode", "long", "session")
PREFILL_LENGTHS = (512, 2048)
DECODE_LENGTHS = (SHORT_PROMPT, 2048)
LONG_LENGTH = 8192

Samples = dict[str, list[float]]
"""By the name of an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure. `more_is_better` of speeds; of seconds and bytes less is."""

    title: str
    more_is_better: bool
    samples: Samples = field(default_factory=lambda: defaultdict(list))


class Run:
    """Rows in the order in which they were first measured."""

    def __init__(
        self,
        names: Sequence[str],
        options: WorkerOptions,
        *,
        num_ids: int,
        rounds: int,
        alone: bool,
        progress: Callable[[str], None],
    ) -> None:
        """Random prompts are of ids below `num_ids`. `alone`: never two engines in memory."""
        self._names = names
        self._options = options
        self._num_ids = num_ids
        self._rounds = rounds
        self._alone = alone
        self._progress = progress
        self._rows: dict[str, Row] = {}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def load(self, *, packed_file: bool) -> None:
        """From a new process to an engine that is ready, and on to a first token; ours once more
        without the file of packed weights, where there is one."""
        for number in range(self._rounds):
            for name in self._names:
                self._progress(f"loading, round {number + 1} of {self._rounds}: {name}")
                self._one_load("", name)
                if packed_file:
                    if name == "qcode":
                        self._one_load(" without its packed file", name, uses_packed_file=False)
                    else:
                        self._copy("load, s", "load without its packed file, s", name)

    def _one_load(self, how: str, name: str, *, uses_packed_file: bool = True) -> None:
        with Worker(
            name,
            self._options,
            context_window=LONG_LENGTH,
            uses_packed_file=uses_packed_file,
        ) as worker:
            prompt = next(random_prompts(SHORT_PROMPT, self._num_ids))
            first_token_s = worker.first_token_s(prompt)
            worker.close()
        self._add(f"load{how}, s", name, worker.load_s)
        if uses_packed_file:
            self._add("process start to first token, s", name, first_token_s)

    def prompts(self, lengths: dict[int, int], rounds: int) -> None:
        """Random prompts of some lengths, each with an answer of so many tokens."""
        window = max(lengths) + ANSWER_TOKENS + 16
        with self._workers(window) as worker_of:
            prompts = {length: random_prompts(length, self._num_ids) for length in lengths}
            for number in range(rounds):
                for length, num_tokens in lengths.items():
                    prompt = next(prompts[length])
                    for name in self._names:
                        self._progress(f"{length} tokens, round {number + 1} of {rounds}: {name}")
                        self._add_timing(name, length, worker_of(name).answer(prompt, num_tokens))

    def session(self, session: AgentSession) -> None:
        """An agent's session, by each engine in a new process; and by ours once more."""
        with tempfile.TemporaryDirectory() as folder:
            for title in ("cold", "started again"):
                for name in self._names:
                    self._progress(f"agent session, {title}: {name}")
                    self._one_session(title, name, session, Path(folder, name))

    def _one_session(self, title: str, name: str, session: AgentSession, folder: Path) -> None:
        total, first = f"agent session, {title}, s", f"its first token, {title}, s"
        if title != "cold" and name != "qcode":
            # It keeps nothing across processes, so this is the same work again.
            self._copy("agent session, cold, s", total, name)
            self._copy("its first token, cold, s", first, name)
            return
        folder.mkdir(exist_ok=True)
        start = partial(
            Worker,
            name,
            self._options,
            context_window=CONTEXT_WINDOW,
            prefix_folder=folder,
        )
        with ExitStack() as stack:
            times = run_session(session, lambda: stack.enter_context(start()))
            memory = times.worker.close()
        self._add(total, name, times.total_s)
        self._add(first, name, times.first_token_s)
        self._add_memory("in the session", name, memory)

    @contextmanager
    def _workers(self, context_window: int) -> Iterator[Callable[[str], Worker]]:
        """A function that gives the worker of an engine, warmed up, starting it if need be."""
        open_workers: dict[str, Worker] = {}
        with ExitStack() as stack:

            def close(name: str) -> None:
                self._add_memory("", name, open_workers.pop(name).close())

            def worker_of(name: str) -> Worker:
                if name not in open_workers:
                    if self._alone:
                        for other in list(open_workers):
                            close(other)
                    worker = Worker(name, self._options, context_window=context_window)
                    open_workers[name] = stack.enter_context(worker)
                    prompt = next(random_prompts(WARM_UP_TOKENS, self._num_ids))
                    worker.answer(prompt, 4)
                return open_workers[name]

            yield worker_of
            for name in list(open_workers):
                close(name)

    def _add_timing(self, name: str, length: int, timing: Timing) -> None:
        if length >= min(PREFILL_LENGTHS):
            self._add(f"prefill of {length} tokens, tokens/s", name, length / timing.prefill_s)
        if timing.token_s:
            self._add(
                f"decode after {length} tokens, tokens/s",
                name,
                *(1 / seconds for seconds in timing.token_s),
            )

    def _add_memory(self, where: str, name: str, memory: Memory) -> None:
        self._add(f"peak memory{where and ' '}{where}, MiB", name, memory.peak_mib)
        self._add(f"allocated memory{where and ' '}{where}, MiB", name, memory.anonymous_mib)

    def _copy(self, source: str, target: str, name: str) -> None:
        """The last sample of one row, in another too."""
        self._add(target, name, self._rows[source].samples[name][-1])

    def _add(self, title: str, name: str, *values: float) -> None:
        row = self._rows.setdefault(
            title, Row(title=title, more_is_better=title.endswith("tokens/s"))
        )
        row.samples[name].extend(values)


def lengths_of(sections: Sequence[str]) -> dict[int, int]:
    """Prompt lengths with the answer tokens of each, for the sections that were chosen."""
    lengths: dict[int, int] = {}
    if "decode" in sections:
        lengths |= dict.fromkeys(DECODE_LENGTHS, ANSWER_TOKENS)
    if "prefill" in sections:
        lengths |= {length: lengths.get(length, 1) for length in PREFILL_LENGTHS}
    return dict(sorted(lengths.items()))
