"""`qcode model quantize` as a person calls it, on tiny models and on large ones of zeros."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest
from conftest import Qcode
from hollow_checkpoint import write_hollow_safetensors
from ptyprocess import PtyProcess
from random_checkpoint import write_safetensors

from qcode.engine.conversion.formats import FORMATS

QUANTIZE = (sys.executable, "-m", "qcode", "model", "quantize")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_safetensors(tmp_path_factory.mktemp("tiny"), "qwen3_moe"))


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A billion weights: minutes of work, which no test waits for."""
    return str(
        write_hollow_safetensors(
            tmp_path_factory.mktemp("large") / "model",
            num_hidden_layers=200,
            hidden_size=1024,
            intermediate_size=2048,
        )
    )


def test_it_tells_what_it_wrote_and_the_result_runs(qcode: Qcode, model: str) -> None:
    done = qcode.run("model", "quantize", model, "small.gguf", "--format", "q8_0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.fullmatch(r"small\.gguf\n\d+ kB, \d+\.\d\d bits a weight, \d+ s\n", done.stdout)
    asked = qcode.run("model", "run", "./small.gguf", "hello", "--max-tokens", "3")
    assert asked.returncode == 0, asked.stderr


def test_what_cannot_be_done_is_told_in_one_line(qcode: Qcode, model: str) -> None:
    unknown = qcode.run("model", "quantize", model, "small.gguf", "--format", "q3")
    assert unknown.returncode == 1
    assert "no format 'q3'" in unknown.stderr
    assert all(name in unknown.stderr for name in FORMATS)
    (qcode.project / "taken.gguf").write_text("mine")
    taken = qcode.run("model", "quantize", model, "taken.gguf", "--format", "q8_0")
    assert taken.returncode == 1
    assert "exists already" in taken.stderr
    assert "--force" in taken.stderr
    forced = qcode.run("model", "quantize", model, "taken.gguf", "--format", "q8_0", "--force")
    assert forced.returncode == 0, forced.stderr
    missing = qcode.run("model", "quantize", "nowhere.gguf", "out.gguf", "--format", "q8_0")
    assert missing.returncode == 1
    assert "no file nowhere.gguf" in missing.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing(qcode: Qcode, large_model: str, number: signal.Signals) -> None:
    target = qcode.project / "large.gguf"
    process = PtyProcess.spawn(
        [*QUANTIZE, large_model, str(target), "--format", "q4_k_m"],
        cwd=str(qcode.project),
        env={**qcode.environment, "TERM": "xterm"},
    )
    shown = ""
    while not re.search(r"[1-9]%", shown):
        shown += process.read(4096).decode()
    [partial] = qcode.project.glob("large.gguf.partial-*")
    assert partial.stat().st_size > 10**8
    os.kill(process.pid, number)
    while True:
        try:
            shown += process.read(4096).decode()
        except EOFError:
            break
    assert process.wait() == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in shown
    assert list(qcode.project.glob("large.gguf*")) == []
