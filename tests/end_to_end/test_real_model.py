"""The whole product with the default model: real bugs, judged by tests the model never saw."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.agent.runner import run_task
from benchmarks.agent.tasks import load_tasks

LIMIT_S = 600

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights("1.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(LIMIT_S + 60),
]


@pytest.fixture
def model() -> str:
    return str(Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-1.5b.gguf")


@pytest.mark.parametrize("name", ["bank-account", "settings-errors", "shopping-cart", "paginate"])
def test_the_default_model_repairs_a_project(name: str, model: str) -> None:
    [task] = load_tasks([name])
    result = run_task(task, model=model, limit_s=LIMIT_S, keep=None)
    assert result.visible, result
    assert result.hidden, result


def test_the_demo_shows_a_repair(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qcode", "demo", "--model", model],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The fixed project stays in" in done.stdout


def test_no_network_and_no_key_are_needed(model: str, tmp_path: Path) -> None:
    """Every proxy points nowhere: a request to anything but this machine would fail."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "qcode", "model", "run", model, "Answer with one word: yes or no?"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=tmp_path,
        env=os.environ | nowhere,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
