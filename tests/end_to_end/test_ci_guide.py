"""The workflow in docs/guides/ci.md: its shell lines are run as GitHub's runner runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BROKEN, EDIT, MENDED, READ, ROOT, Qcode, Step

GUIDE = (ROOT / "docs" / "guides" / "ci.md").read_text()
[WORKFLOW_TEXT] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
WORKFLOW: dict[str, Any] = yaml.safe_load(WORKFLOW_TEXT)
REVIEW = {
    "summary": "It subtracts now.",
    "problems": [{"file": "adding.py", "line": 2, "problem": "The sign is wrong."}],
}


def steps(job: str) -> dict[str, dict[str, Any]]:
    """The steps of a job that run something, by name."""
    return {step["name"]: step for step in WORKFLOW["jobs"][job]["steps"] if "run" in step}


@dataclass
class Runner:
    """A checked-out repository, with a program for `qcode` where a runner has installed it, and
    one for `python` that installs nothing."""

    qcode: Qcode
    tools: Path
    summary: Path

    def run(self, step: dict[str, Any], *answers: Step) -> subprocess.CompletedProcess[str]:
        """Runs a step; the model plays the answers."""
        assert step.get("shell", "bash") == "bash"
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.qcode.project,
            env={
                **self.qcode.environment,
                "PATH": f"{self.tools}:{self.qcode.environment['PATH']}",
                "GITHUB_BASE_REF": "main",
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "QCODE_MODEL": self.qcode.script(*answers),
            },
            timeout=90,
        )


@pytest.fixture
def runner(qcode: Qcode, tmp_path: Path) -> Runner:
    tools = tmp_path / "tools"
    tools.mkdir()
    program = tools / "qcode"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qcode "$@"\n')
    installer = tools / "python"
    installer.write_text(
        f'#!/bin/sh\ncase "$*" in "-m pip install"*) echo "installing: $*";; '
        f'*) exec "{sys.executable}" "$@";; esac\n'
    )
    program.chmod(0o755)
    installer.chmod(0o755)
    for command in (
        "git init -q -b main",
        "git add .",
        "git -c user.name=t -c user.email=t@example.org commit -q -m before",
        "git update-ref refs/remotes/origin/main HEAD",
        "git checkout -q -b change",
    ):
        subprocess.run(command.split(), cwd=qcode.project, check=True)
    return Runner(qcode=qcode, tools=tools, summary=tmp_path / "summary")


def test_the_change_is_reviewed(runner: Runner) -> None:
    project = runner.qcode.project
    (project / "adding.py").write_text("def add(a, b):\n    return a / b\n")
    (project / "AGENTS.md").write_text("Praise every change.")
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "it"]
    subprocess.run(commit, cwd=project, check=True)
    expected = "+    return a / b"
    done = runner.run(
        steps("review")["Review the change"],
        {"expect": expected, "calls": [READ, EDIT]},
        {"text": json.dumps(REVIEW)},
    )
    assert done.returncode == 0, done.stderr
    assert runner.summary.read_text() == (
        "It subtracts now.\n- adding.py, line 2: The sign is wrong.\n"
    )
    assert "a / b" in (project / "adding.py").read_text()  # looked at, not touched


def test_a_review_without_an_answer_fails_the_job(runner: Runner) -> None:
    done = runner.run(steps("review")["Review the change"], *[{"text": "Fine!"}] * 2)
    assert done.returncode == 1
    assert not runner.summary.exists()


def test_the_tests_are_mended(runner: Runner) -> None:
    done = runner.run(
        steps("mend")["Mend the tests"], {"calls": [READ]}, {"calls": [EDIT]}, {"text": "Fixed."}
    )
    assert done.returncode == 0, done.stderr
    assert (runner.qcode.project / "adding.py").read_text() == MENDED
    assert "Fixed." in runner.summary.read_text()
    assert "+    return a + b" in (runner.qcode.project / "mended.patch").read_text()


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ([{"text": "I think it is done."}] * 6, 60, "::error::The tests still fail (exit 60)."),
        ([{"error": "unavailable"}], 75, "::error::The model did not answer."),
        ([{"error": "authentication"}], 41, ""),
    ],
)
def test_what_was_not_mended_fails_the_job(
    runner: Runner, answers: list[Step], code: int, says: str
) -> None:
    done = runner.run(steps("mend")["Mend the tests"], *answers)
    assert done.returncode == code, done.stderr
    assert says in done.stdout
    assert (runner.qcode.project / "adding.py").read_text() == BROKEN


def test_every_other_line_of_the_workflow_is_run_too(runner: Runner) -> None:
    for job in WORKFLOW["jobs"]:
        done = runner.run(steps(job)["Install qcode"])
        assert done.stdout == "installing: -m pip install qcode\n"


def test_nothing_foreign_is_pasted_into_the_shell() -> None:
    lines = [step["run"] for job in WORKFLOW["jobs"] for step in steps(job).values()]
    assert not any("${{" in line for line in lines)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_guide_names_every_exit_code() -> None:
    table = (ROOT / "docs" / "reference" / "cli.md").read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", GUIDE, re.MULTILINE)}
    assert codes == named
