"""One task: a fresh copy, the real command, then the visible and the hidden tests."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent.tasks import Task

TEST_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`failure` is "" for a task that is solved by the visible and the hidden tests."""

    task: str
    kind: str
    visible: bool
    hidden: bool
    failure: str
    seconds: float
    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def solved(self) -> bool:
        return self.visible and self.hidden


def run_task(task: Task, *, model: str | None, limit_s: float, keep: Path | None) -> Result:
    """Runs `qcode run --yolo` in a copy of the project. `keep` is a directory for the copies and
    the transcripts; by default they go when the task is judged."""
    if keep is not None:
        return _run_in(keep / task.name, task, model, limit_s)
    with tempfile.TemporaryDirectory(prefix="qcode-bench-") as folder:
        return _run_in(Path(folder), task, model, limit_s)


def _run_in(folder: Path, task: Task, model: str | None, limit_s: float) -> Result:
    workspace = folder / "project"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(task.project, workspace)
    before = _digest(workspace)
    started = time.monotonic()
    transcript, timed_out = _agent(task, workspace, model, limit_s)
    seconds = time.monotonic() - started
    (folder / "transcript.jsonl").write_text(transcript, encoding="utf-8")
    last = _result_object(transcript)
    visible = _passes(task.command, workspace)
    changed = _digest(workspace) != before
    hidden = False
    if visible:
        shutil.copytree(task.hidden, workspace, dirs_exist_ok=True)
        hidden = _passes(task.command, workspace)
    usage = _object(last.get("usage"))
    return Result(
        task=task.name,
        kind=task.kind,
        visible=visible,
        hidden=hidden,
        failure=_failure(last, visible, hidden, changed, timed_out),
        seconds=seconds,
        requests=_count(last.get("num_turns")),
        input_tokens=_count(usage.get("input_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
    )


def _agent(task: Task, workspace: Path, model: str | None, limit_s: float) -> tuple[str, bool]:
    """What the command printed on stdout, and whether it ran past the limit."""
    command = [sys.executable, "-m", "qcode", "run", task.prompt, "--yolo"]
    command += ["--output-format", "stream-json", "--ephemeral"]
    command += ["--model", model] if model else []
    try:
        run = subprocess.run(
            command,
            cwd=workspace,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(), True  # bytes here, whatever `text` says
    if run.returncode not in {0, 1}:
        sys.stderr.write(run.stderr[-2000:])
    return run.stdout, False


def _environment() -> dict[str, str]:
    """The package is found from any directory, also where it is not installed."""
    root = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


def _result_object(transcript: str) -> dict[str, object]:
    for line in reversed(transcript.splitlines()):
        value = json.loads(line)
        if value.get("type") == "result":
            return dict(value)
    return {}


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _passes(command: str, workspace: Path) -> bool:
    words = [sys.executable if word == "python3" else word for word in shlex.split(command)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            words,
            cwd=workspace,
            env=environment,
            capture_output=True,
            timeout=TEST_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def _digest(folder: Path) -> str:
    """Of all files but the traces that running tests leaves."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _failure(
    last: dict[str, object], visible: bool, hidden: bool, changed: bool, timed_out: bool
) -> str:
    if visible and hidden:
        return ""
    if visible:
        return "hidden tests fail"
    if timed_out:
        return "time limit"
    if not last:
        return "crash"
    if changed:
        return "left a wrong change"
    message = str(_object(last.get("error")).get("message", ""))
    if "No fix was found" in message:
        return "no fix found"
    return message[:60] or "claimed success"
