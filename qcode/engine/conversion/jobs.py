"""The work of a conversion as many small pieces, done by one thread for each core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from qcode.engine.device import num_physical_cores

VALUES_PER_JOB = 2 * 2**20
"""8 MB in float32, of which a thread holds a few copies."""

_RELEASED_VALUES = 32 * 2**20
"""After reading this many, their pages are given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Reads, encodes and writes some rows of a tensor."""

    num_values: int
    run: Callable[[], None]


def row_ranges(rows: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cuts a matrix into parts for jobs; each but the last has a multiple of `multiple` rows."""
    step = max(1, VALUES_PER_JOB // width // multiple) * multiple
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


@contextmanager
def one_thread_a_core() -> Iterator[ThreadPoolExecutor]:
    """Threads to run jobs in. Meanwhile torch starts no threads of its own: on a busy machine,
    those that share one operation wait for one another most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            num_physical_cores(), initializer=torch.set_num_threads, initargs=(1,)
        ) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


def run_jobs(
    jobs: Iterable[Job],
    threads: ThreadPoolExecutor,
    progress: Callable[[int], None],
    release: Callable[[], None],
) -> None:
    """Runs all of them, a few at a time; the first error ends it.

    `progress` is told how many values are done. `release` gives back the memory of what was read.
    """
    limit = 2 * num_physical_cores()
    waiting: deque[tuple[Job, Future[None]]] = deque()
    done = released = 0

    def finish_one() -> None:
        nonlocal done, released
        job, future = waiting.popleft()
        future.result()
        done += job.num_values
        progress(done)
        if done - released > _RELEASED_VALUES:
            release()
            released = done

    try:
        for job in jobs:
            waiting.append((job, threads.submit(job.run)))
            if len(waiting) > limit:
                finish_one()
        while waiting:
            finish_one()
    finally:
        for _, future in waiting:
            future.cancel()
