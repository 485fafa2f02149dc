from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.agent.runner import run_task
from benchmarks.agent.tasks import Task, load_tasks


def test_there_are_enough_different_projects() -> None:
    tasks = load_tasks()
    assert len(tasks) >= 20
    assert len({task.kind for task in tasks}) == len(tasks)
    for task in tasks:
        assert any(task.project.rglob("*test*"))
        assert any(task.hidden.rglob("*test*"))


def test_an_unknown_project_is_an_error() -> None:
    with pytest.raises(KeyError):
        load_tasks(["no-such-project"])


def task(root: Path, body: str) -> Task:
    (root / "project").mkdir()
    (root / "hidden").mkdir()
    (root / "project/a.py").write_text("def f(x):\n    return x\n")
    test = (
        "import unittest\nfrom a import f\n\n\nclass T(unittest.TestCase):\n    def test_f(self):\n"
    )
    (root / "project/test_a.py").write_text(f"{test}        self.assertEqual(f(2), 4)\n")
    (root / "hidden/test_b.py").write_text(f"{test}        self.assertEqual(f(3), 6)\n")
    answer = f"def f(x):\\n    return {body}\\n"
    (root / "script.py").write_text(
        f"import pathlib\npathlib.Path('a.py').write_text(\"{answer}\")\n"
    )
    return Task(
        name="t", prompt="fix it", command="python3 -m unittest", language="python", kind="k",
        project=root / "project", hidden=root / "hidden",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "failure"),
    [("x * 2", ""), ("4", "hidden tests fail"), ("x + 1", "left a wrong change")],
)
def test_judging(tmp_path: Path, body: str, failure: str) -> None:
    """A scripted model rewrites the file; the judge's verdict follows the tests."""
    script = tmp_path / "answers.jsonl"
    command = f"{sys.executable} {tmp_path / 'script.py'}"
    made = task(tmp_path, body)
    call = {"name": "run_shell_command", "arguments": {"command": command}}
    script.write_text(f"{json.dumps({'calls': [call]})}\n{json.dumps({'text': 'done'})}\n")
    result = run_task(made, model=f"scripted:{script}", limit_s=60, keep=None)
    assert result.failure == failure
    assert result.solved == (failure == "")
