"""One scenario through the real command, timed from outside it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.client.processes import cpu_s, peak_rss_mib, tree_rss_mib
from benchmarks.client.scenarios import Scenario
from benchmarks.client.server import MODEL, Exchange, ScriptedServer

WINDOW = 10_000_000
"""Far more than any scenario fills, so that no history is shortened."""
COMMAND = (sys.executable, "-m", "qcode")
_ROOT = Path(__file__).parents[2]
_SAMPLE_EVERY_S = 0.01
_AROUND = 4


class WentWrong(Exception):
    """The command did not do the scripted work, so its times mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Seconds, MiB and bytes. `gaps_s[n]` is the time from the end of answer n + 1 to the request
    after it, `gaps_cpu_s[n]` what the command (without its children) computed in it; `rss_mib` is
    that of the tree when an answer had been sent, by its number."""

    wall_s: float
    cpu_s: float
    first_request_s: float
    first_request_cpu_s: float
    exit_s: float
    peak_mib: float
    gaps_s: Sequence[float]
    gaps_cpu_s: Sequence[float]
    rss_mib: Mapping[int, float]
    request_bytes: Sequence[int]
    first_request: bytes
    num_connections: int
    num_stored_records: int


def around(gaps: Sequence[float], turn: int) -> float:
    """The median of the nine gaps around a turn."""
    start = max(0, turn - 1 - _AROUND)
    return statistics.median(gaps[start : turn + _AROUND])


def measure(
    scenario: Scenario, *, command: Sequence[str] = COMMAND, folder: Path | None = None
) -> Measurement:
    """Runs `command run PROMPT` in a new project and a new home below `folder`, with every record
    of the session on the disk as always. Raises WentWrong."""
    with tempfile.TemporaryDirectory(prefix="qcode-client-", dir=folder) as made:
        project, home = Path(made) / "project", Path(made) / "home"
        project.mkdir()
        home.mkdir()
        scenario.prepare(project)
        return asyncio.run(_Run(scenario, project, home).through(command))


def bare_python_s() -> float:
    """The start and end of an interpreter with asyncio: what this machine takes at the moment for
    what no Python program can avoid."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return time.monotonic() - started


class _Run:
    def __init__(self, scenario: Scenario, project: Path, home: Path) -> None:
        self._scenario = scenario
        self._project = project
        self._home = home
        self._pid = 0
        self._peak_mib = 0.0
        self._rss_mib: dict[int, float] = {}

    async def through(self, command: Sequence[str]) -> Measurement:
        server = ScriptedServer(
            self._scenario.answers,
            window=WINDOW,
            client_cpu_s=lambda: cpu_s(self._pid),
            on_answer=self._note_memory,
        )
        async with server.serving():
            cpu_before_s = _children_cpu_s()
            started = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *command,
                "run",
                self._scenario.prompt,
                *("--yolo", "--base-url", server.url, "--model", MODEL),
                cwd=self._project,
                env=_environment(self._home),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            self._pid = process.pid
            sampling = asyncio.create_task(self._sample())
            said, complained = await process.communicate()
            ended = time.monotonic()
            sampling.cancel()
        exchanges = server.exchanges
        self._check(process.returncode, said, complained, exchanges)
        return Measurement(
            wall_s=ended - started,
            cpu_s=_children_cpu_s() - cpu_before_s,
            first_request_s=exchanges[0].asked_s - started,
            first_request_cpu_s=exchanges[0].asked_cpu_s,
            exit_s=ended - exchanges[-1].answered_s,
            peak_mib=self._peak_mib,
            gaps_s=[after.asked_s - before.answered_s for before, after in pairwise(exchanges)],
            gaps_cpu_s=[
                after.asked_cpu_s - before.answered_cpu_s for before, after in pairwise(exchanges)
            ],
            rss_mib=self._rss_mib,
            request_bytes=[exchange.num_bytes for exchange in exchanges],
            first_request=server.first_body,
            num_connections=server.num_connections,
            num_stored_records=_num_records(self._home),
        )

    def _note_memory(self, number: int) -> None:
        self._rss_mib[number] = tree_rss_mib(self._pid)

    async def _sample(self) -> None:
        while True:
            now = max(tree_rss_mib(self._pid), peak_rss_mib(self._pid))
            self._peak_mib = max(self._peak_mib, now)
            await asyncio.sleep(_SAMPLE_EVERY_S)

    def _check(
        self, status: int | None, said: bytes, complained: bytes, exchanges: Sequence[Exchange]
    ) -> None:
        expected = "".join(self._scenario.answers[-1].pieces).strip()
        if (
            status != 0
            or not said.decode().strip().startswith(expected)  # a line on the tests may follow
            or len(exchanges) != len(self._scenario.answers)
            or not self._scenario.done(self._project)
        ):
            raise WentWrong(
                f"{self._scenario.name}: exit {status} after {len(exchanges)} of "
                f"{len(self._scenario.answers)} answers\n{complained.decode()[-2000:]}"
            )


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the user's settings; the checkout's own code; bytecode is written and used."""
    kept = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {**inherited, "PYTHONPATH": str(_ROOT), "HOME": str(home)}


def _num_records(home: Path) -> int:
    """How many entries the run left on the disk. Each is checked to be whole."""
    files = list(home.rglob("sessions/**/*.jsonl"))
    return sum(bool(json.loads(line)) for file in files for line in file.read_text().splitlines())


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
