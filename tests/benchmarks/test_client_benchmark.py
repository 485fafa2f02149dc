"""The benchmark of the client measures real work, and what keeps the client light is there.

No times: those are the benchmark's to print. What is counted here does not depend on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.client.measure import Measurement, WentWrong, measure
from benchmarks.client.peers import PEERS
from benchmarks.client.processes import tree_rss_mib
from benchmarks.client.report import (
    answer_figures,
    beside_targets,
    repair_figures,
    session_figures,
    table,
)
from benchmarks.client.scenarios import long_answer, long_session, repair

ROOT = Path(__file__).parents[2]
NUM_READS = 12
MAX_REQUEST_BYTES = 14_000  # 4,000 tokens, at 3.5 bytes each
FOR_PEOPLE = {"rich", "prompt_toolkit", "pygments", "markdown_it"}
FOR_PROXIES = {"httpx", "httpcore", "h11", "anyio"}
NOT_BEFORE_THE_REQUEST = {
    *FOR_PROXIES,
    *{"certifi", "email", "http.client", "importlib.metadata", "urllib.request"},
    *{"jinja2", "json_repair", "jsonschema", "tree_sitter_python", "yaml"},
    "qcode.agent.attempt_folders",
    "qcode.agent.best_of",
    "qcode.agent.project_tests",
    "qcode.agent.repair.choice",
    "qcode.agent.repair.repair",
    "qcode.agent.replay",
    "qcode.backends.discovery",
    "qcode.backends.endpoint_probes",
    "qcode.backends.local",
    "qcode.backends.proxied_transport",
    "qcode.cli.doctor",
    "qcode.cli.models",
    "qcode.engine.engine",
    "qcode.frontends.repl.app",
}
FOR_THE_ENGINE = {"torch", "numpy", "safetensors", "llguidance", "tiktoken"}


@pytest.fixture(scope="module")
def session_run() -> Measurement:
    return measure(long_session(NUM_READS))


def test_a_session_is_timed_turn_by_turn_and_stored(session_run: Measurement) -> None:
    num_answers = NUM_READS + 4
    assert len(session_run.request_bytes) == num_answers
    assert len(session_run.gaps_s) == len(session_run.gaps_cpu_s) == num_answers - 1
    assert all(gap > 0 for gap in session_run.gaps_s)
    # The prompt, and of each answer at least itself; of each call its result.
    assert session_run.num_stored_records > 2 * num_answers
    assert session_run.rss_mib[10] > 20
    assert session_run.peak_mib >= max(session_run.rss_mib.values())
    figures = session_figures(session_run)
    assert figures["turn_10_ms"] > 0
    assert "turn_200_ms" not in figures


def test_turns_share_a_connection(session_run: Measurement) -> None:
    """One asks for the models, one has the conversation."""
    assert session_run.num_connections == 2


def test_the_first_request_is_small(session_run: Measurement) -> None:
    body = json.loads(session_run.first_request)
    assert body["messages"][-1]["role"] == "user"
    assert len(body["tools"]) > 5
    assert session_run.request_bytes[0] < MAX_REQUEST_BYTES


def test_a_request_holds_the_conversation_and_nothing_else_that_grows(
    session_run: Measurement,
) -> None:
    """Each read adds its text, a call and a little JSON, the same at every turn."""
    steps = [
        after - before
        for before, after in zip(
            session_run.request_bytes[1:NUM_READS],
            session_run.request_bytes[2:NUM_READS],
            strict=False,
        )
    ]
    assert max(steps) - min(steps) < 0.1 * max(steps)


def test_figures_are_shown_beside_limits_and_peers(session_run: Measurement) -> None:
    answer = measure(long_answer(300))
    figures = {
        **repair_figures([session_run]),
        **session_figures(session_run),
        **answer_figures(answer),
    }
    shown = beside_targets(figures)
    assert "at most 0.45" in shown
    rows = table(figures).splitlines()
    assert len(rows) == 2 + len(PEERS)
    assert len({len(row) for row in rows}) == 1
    assert "first request s" in rows[0]


def test_work_that_was_not_done_is_not_timed() -> None:
    script = "import sys; sys.stdin.read(); sys.exit(3)"
    with pytest.raises(WentWrong, match="exit 3 after 0 of 4 answers"):
        measure(repair(), command=[sys.executable, "-c", script])


def test_the_command_prints_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.client", "--json", "--part=answer", "--tokens=50"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["answer_wall_s"] > 0
    assert "wall_s" not in figures


def test_a_remote_run_loads_neither_the_engine_nor_what_draws_for_people(tmp_path: Path) -> None:
    """The command tells, as it ends, what it has loaded."""
    loaded = tmp_path / "loaded"
    program = (
        "import atexit, sys\n"
        "from qcode.__main__ import main\n"
        "@atexit.register\n"
        "def tell():\n"
        "    names = {name.partition('.')[0] for name, it in sys.modules.items() if it}\n"
        f"    open({str(loaded)!r}, 'w').write(' '.join(names))\n"
        "main()\n"
    )
    measure(repair(), command=[sys.executable, "-c", program])
    names = set(loaded.read_text().split())
    assert {"qcode", "pydantic"} <= names
    assert names & (FOR_PEOPLE | FOR_THE_ENGINE | FOR_PROXIES) == set()


def test_what_the_first_request_does_not_need_is_not_loaded_before_it(tmp_path: Path) -> None:
    """The command notes what it has loaded whenever it opens a connection, the last of which is
    that of the request."""
    loaded = tmp_path / "loaded"
    program = (
        "import sys\n"
        "from qcode.__main__ import main\n"
        "def tell(event, _):\n"
        "    if event == 'socket.connect':\n"
        "        names = {name for name, module in sys.modules.items() if module}\n"
        f"        open({str(loaded)!r}, 'w').write(' '.join(names))\n"
        "sys.addaudithook(tell)\n"
        "main()\n"
    )
    measure(repair(), command=[sys.executable, "-c", program])
    names = set(loaded.read_text().split())
    assert "qcode.agent.agent" in names
    assert names & NOT_BEFORE_THE_REQUEST == set()


def test_memory_is_that_of_the_whole_tree() -> None:
    script = "held = b'x' * (40 << 20); print(flush=True); input()"
    before = tree_rss_mib(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert tree_rss_mib(os.getpid()) - before > 40
    child.communicate(b"\n")
