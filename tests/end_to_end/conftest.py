"""The real command in a process of its own, in a home and project of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# The loopback server lies beside the tests of the backend it was made for.
sys.path.append(str(ROOT / "tests" / "backends"))

Step = Mapping[str, object]

BROKEN = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TEST = """\
import unittest

from adding import add


class Adding(unittest.TestCase):
    def test_two_and_three(self):
        self.assertEqual(add(2, 3), 5)
"""
RUN_TEST = "python -m unittest -q test_adding"


@dataclass
class Qcode:
    """Runs `qcode` in `project`. What `start` has started is ended with the test."""

    project: Path
    home: Path
    environment: dict[str, str]
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(
        self,
        *arguments: str,
        stdin: str | bytes | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """`stdin` None: /dev/null."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self._command(arguments),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            cwd=self.project,
            env={**self.environment, **(environment or {})},
            timeout=timeout_s,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def start(
        self,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command(arguments),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.project,
            env={**self.environment, **(environment or {})},
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def script(self, *steps: Step, **head: object) -> str:
        """A `--model` value that plays these steps."""
        file = self.home / f"script-{len(list(self.home.glob('script-*')))}.json"
        file.write_text(json.dumps({"steps": steps, **head}))
        return f"scripted:{file}"

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "qcode", *arguments]


@pytest.fixture
def qcode(isolated_home: Path, tmp_path: Path) -> Iterator[Qcode]:
    """A project with a program, and a test that it fails."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "adding.py").write_text(BROKEN)
    (project / "test_adding.py").write_text(TEST)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "100",
    }
    command = Qcode(project=project, home=isolated_home, environment=environment)
    yield command
    command.end()


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


EDIT = call("edit", file_path="adding.py", old_string="a - b", new_string="a + b")
READ = call("read_file", file_path="adding.py")
