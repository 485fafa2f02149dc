"""llama.cpp's server, of llama-cpp-python, as an endpoint that is not ours, with a real model.

Needs `llama_cpp.server` in this environment, or QCODE_TEST_LLAMA_SERVER: a command that takes
`--model FILE --port N --n_ctx N` as that module does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Qcode

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]

WINDOW = 4096
_NAMED = os.environ.get("QCODE_TEST_LLAMA_SERVER", "")  # read before each test's own environment
_NEEDED = ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context")
_MODELS = Path(os.environ["QCODE_TEST_MODELS"])


def server_command() -> list[str] | None:
    if _NAMED:
        return shlex.split(_NAMED)
    if all(importlib.util.find_spec(name) for name in _NEEDED):
        return [sys.executable, "-m", "llama_cpp.server"]
    return None


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = server_command()
    if command is None:
        reason = "neither llama_cpp.server nor QCODE_TEST_LLAMA_SERVER is there"
        print(f"llama.cpp's server is not tested: {reason}", file=sys.stderr)
        pytest.skip(reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = _MODELS / "qwen2.5-coder-0.5b.gguf"
    options = ["--model", str(model), "--port", str(port), "--n_ctx", str(WINDOW)]
    log = tmp_path_factory.mktemp("llama") / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/v1/models", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)  # it has no other way to say that it is ready
    pytest.fail("the server did not start within a minute")


def test_the_doctor_and_a_run_against_a_real_server(qcode: Qcode, llama_server: str) -> None:
    probed = qcode.run("doctor", "--endpoint", llama_server, "--json", timeout_s=500)
    found = json.loads(probed.stdout)
    verdicts = {result["probe"]: result["verdict"] for result in found["results"]}
    assert probed.returncode == 0, probed.stdout
    # What this server is known for: calls stay in the text, no usage, a window that it only
    # states when it refuses a prompt.
    assert verdicts["stream"] == verdicts["call as text"] == "ok"
    assert verdicts["tool call"] == verdicts["usage"] == verdicts["window"] == "note"
    assert found["profile"]["context_window"] == WINDOW

    run = qcode.run(
        "run",
        *("--base-url", llama_server, "--max-turns", "3", "--output-format", "json"),
        "Reply with the single word: ready. Use no tools.",
        timeout_s=500,
    )
    assert run.returncode in (0, 53), run.stderr  # a model this small may not stop by itself
    assert "are assumed" not in run.stderr  # the doctor has found the window out
    events = json.loads(run.stdout)
    assert any(event["type"] == "assistant" for event in events)
