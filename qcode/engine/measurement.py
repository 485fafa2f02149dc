"""How fast the engine is on this machine and what memory that takes: `qcode model bench`.

Prompts are random ids, so nothing of them is in a cache and no draft can be copied from them.
Imports no torch: processes that measure another engine use it too.
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from qcode.engine.engine import Engine

Clock = Callable[[], float]

NUM_PLAIN_IDS = 150_000
"""Random ids are below this: all Qwen vocabularies hold them, and none of them is special."""

SHORT_PROMPT = 16
ANSWER_TOKENS = 48
WARM_UP_TOKENS = 160
"""What happens once, such as touching memory and finding the size of chunks, happens in these."""

REPETITIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One answer. `token_s` are the seconds of each token after the first; a step that gave
    several shares its time among them."""

    prefill_s: float
    token_s: tuple[float, ...]
    token_ids: tuple[int, ...]

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first."""
        return len(self.token_s) / sum(self.token_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Medians of `REPETITIONS`; speeds are tokens a second. `decode` follows a short prompt,
    `decode_2k` one of 2048 tokens. `load_s` is `Engine.load`, without Python's imports.
    `peak_rss_mib` is the most the process has held in memory, pages of the model's file too."""

    prefill_512: float
    prefill_2048: float
    decode: float
    decode_2k: float
    load_s: float
    peak_rss_mib: float


def time_answer(
    engine: Engine, prompt: Sequence[int], num_tokens: int, clock: Clock = time.perf_counter
) -> Timing:
    """A greedy answer of exactly `num_tokens`, at least one, to a prompt; no other may run."""
    sampling = SamplingParams(
        temperature=0, repetition_penalty=1.0, max_tokens=num_tokens, ignore_eos=True
    )
    token_ids: list[int] = []
    token_s: list[float] = []
    prefill_s = 0.0
    before = clock()
    engine.submit(prompt, sampling)
    while engine.has_work:
        new = [token for output in engine.step() for token in output.token_ids]
        if not new:
            continue  # a part of the prompt
        now = clock()
        if token_ids:
            token_s += [(now - before) / len(new)] * len(new)
        else:
            prefill_s = now - before
        token_ids += new
        before = now
    return Timing(prefill_s=prefill_s, token_s=tuple(token_s), token_ids=tuple(token_ids))


def random_prompts(num_tokens: int, num_ids: int = NUM_PLAIN_IDS) -> Iterator[list[int]]:
    """Without end; the first ones are always the same."""
    numbers = random.Random(num_tokens)
    while True:
        yield [numbers.randrange(num_ids) for _ in range(num_tokens)]


def measure(load: Callable[[], Engine], progress: Callable[[str], None]) -> Measured:
    """Loads and times a model; `progress` is told each part before it begins. The engine has a
    context window of 4096 tokens or more and uses no prefix again."""
    engine, load_times = _load_repeatedly(load, progress)
    num_ids = min(NUM_PLAIN_IDS, engine.loaded.tokenizer.num_tokens)
    progress("warming up")
    time_answer(engine, next(random_prompts(WARM_UP_TOKENS, num_ids)), 4)
    prompts = {length: random_prompts(length, num_ids) for length in (SHORT_PROMPT, 512, 2048)}
    timings: dict[int, list[Timing]] = {length: [] for length in prompts}
    for repetition in range(1, REPETITIONS + 1):
        for length, lot in prompts.items():
            progress(f"prompt of {length} tokens, {repetition} of {REPETITIONS}")
            timings[length].append(time_answer(engine, next(lot), ANSWER_TOKENS))
    return Measured(
        prefill_512=512 / statistics.median(timing.prefill_s for timing in timings[512]),
        prefill_2048=2048 / statistics.median(timing.prefill_s for timing in timings[2048]),
        decode=statistics.median(timing.decode_rate for timing in timings[SHORT_PROMPT]),
        decode_2k=statistics.median(timing.decode_rate for timing in timings[2048]),
        load_s=statistics.median(load_times),
        peak_rss_mib=peak_rss_bytes() / 2**20,
    )


def peak_rss_bytes() -> int:
    """The most this process has held in memory at a time, shared pages of files included."""
    if (peak := _status_bytes("VmHWM")) is not None:
        return peak
    # Where there is no /proc. Linux would also count what the process was before its exec.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def anonymous_bytes() -> int | None:
    """What this process holds now that is no file's; None where the system does not say."""
    return _status_bytes("RssAnon")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024  # "  123 kB"
    return None


def _load_repeatedly(
    load: Callable[[], Engine], progress: Callable[[str], None]
) -> tuple[Engine, list[float]]:
    """The engine of the last load, and the seconds of each."""
    engine: Engine | None = None
    times = []
    for repetition in range(1, REPETITIONS + 1):
        progress(f"loading, {repetition} of {REPETITIONS}")
        engine = None
        gc.collect()
        began = time.perf_counter()
        engine = load()
        times.append(time.perf_counter() - began)
    assert engine is not None
    return engine, times
