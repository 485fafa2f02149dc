"""However a run is ended: in seconds, nothing of it left running, its session ready to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import STALL, ChatServer, refuse, say
from conftest import Qcode, call

# An end in order takes two seconds where a command must be killed.
MAX_END_S = 5.0


def objects(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def is_running(pid: int) -> bool:
    """Whether there is such a process that is more than an entry its parent has not read yet."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def assert_killed(pid: int) -> None:
    """What was killed may take a moment to be gone on a busy machine."""
    until = time.monotonic() + 2
    while is_running(pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def child_that_is_hard_to_end(project: Path) -> tuple[dict[str, object], Callable[[], int]]:
    """A command that ignores what is polite and whose child leaves its group, and how to wait for
    the child's process id."""
    file = project / "pid"
    command = (
        "trap '' INT TERM HUP; "
        f"setsid sh -c \"trap '' INT TERM HUP; echo \\$\\$ > {file}.new; mv {file}.new {file}; "
        'while :; do sleep 1; done" & while :; do sleep 1; done'
    )

    def wait() -> int:
        until = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        return int(file.read_text())

    return call("run_shell_command", command=command), wait


def assert_goes_on(qcode: Qcode, *, said: str) -> None:
    """The stored session holds the prompt, and another turn can follow."""
    script = qcode.script({"expect": "go on", "text": "I went on."})
    done = qcode.run("run", "go on", f"--model={script}", "--continue")
    assert (done.returncode, done.stdout) == (0, "I went on.\n"), done.stderr
    session_id = qcode.run("session", "list").stdout.split()[0]
    shown = qcode.run("session", "show", session_id).stdout
    prompts = [line for line in shown.splitlines() if line.startswith("> ")]
    assert prompts == [f"> {said}", "> go on"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_while_a_command_runs(qcode: Qcode, number: int, code: int) -> None:
    hard, wait_for_child = child_that_is_hard_to_end(qcode.project)
    process = qcode.start("run", "work", f"--model={qcode.script({'calls': [hard]})}", "--yolo")
    child = wait_for_child()
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert time.monotonic() - began < MAX_END_S
    assert_killed(child)
    assert_goes_on(qcode, said="work")


@pytest.mark.parametrize("output_format", ["text", "json", "stream-json"])
def test_a_reader_that_goes_away_while_a_command_runs(qcode: Qcode, output_format: str) -> None:
    """Nothing is written for as long as the command runs, so nothing fails to be written."""
    hard, wait_for_child = child_that_is_hard_to_end(qcode.project)
    script = qcode.script({"calls": [hard]})
    process = qcode.start(
        "run", "work", f"--model={script}", "--yolo", f"--output-format={output_format}"
    )
    child = wait_for_child()
    began = time.monotonic()
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert time.monotonic() - began < MAX_END_S
    assert_killed(child)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert_goes_on(qcode, said="work")


def test_a_reader_that_was_never_there(qcode: Qcode) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        qcode._command(("run", "work", f"--model={qcode.script({'text': 'Done.'})}")),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=qcode.project,
        env=qcode.environment,
        timeout=30,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_while_a_message_is_awaited(qcode: Qcode, number: int, code: int) -> None:
    process = qcode.start(
        "run",
        f"--model={qcode.script({'text': 'Well.'})}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write('{"type": "user", "message": {"role": "user", "content": "work"}}\n')
    process.stdin.flush()
    while '"result"' not in process.stdout.readline():
        pass
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert time.monotonic() - began < MAX_END_S
    assert_goes_on(qcode, said="work")


def test_input_that_ends_in_the_middle_of_a_turn_lets_it_finish(qcode: Qcode) -> None:
    slow = {"text": "Slowly, but whole.", "delay_s": 0.2}
    done = qcode.run(
        "run",
        f"--model={qcode.script(slow)}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin='{"type": "user", "message": {"role": "user", "content": "work"}}',
    )
    assert done.returncode == 0
    assert objects(done.stdout)[-1]["result"] == "Slowly, but whole."
    assert_goes_on(qcode, said="work")


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (say("Half of an ans", fault=STALL), "the middle of an answer"),
        (refuse(503, "try later", retry_after="60"), "a wait for the next try"),
    ],
)
def test_a_signal_while_the_server_is_waited_for(qcode: Qcode, answer: Any, where: str) -> None:
    with ChatServer([answer]) as server:
        process = qcode.start(
            "run",
            "work",
            f"--base-url={server.url}",
            "--model=m",
            "--output-format=stream-json",
            "--include-partial-messages",
        )
        mark = "text_delta" if where.startswith("the middle") else "trying again"
        stream = process.stdout if mark == "text_delta" else process.stderr
        assert stream is not None
        while mark not in stream.readline():
            pass
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
        assert time.monotonic() - began < MAX_END_S
    assert_goes_on(qcode, said="work")


def test_a_server_that_vanishes_in_the_middle(qcode: Qcode) -> None:
    """It breaks off, and nobody listens any more: the tries that are worth it, then code 75."""
    with ChatServer([say("Half of an ans", fault=STALL)]) as server:
        process = qcode.start(
            "run",
            "work",
            f"--base-url={server.url}",
            "--model=m",
            "--output-format=stream-json",
            "--include-partial-messages",
        )
        assert process.stdout is not None
        while "text_delta" not in process.stdout.readline():
            pass
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    # Up to six tries, the waits between them together at most 15.5 s (security design, retries).
    assert time.monotonic() - began < 15.5 + MAX_END_S
    assert process.returncode == 75
    assert objects(stdout)[-1]["is_error"] is True
    assert "Traceback" not in stderr
    assert_goes_on(qcode, said="work")


def run_limited(qcode: Qcode, limit_kib: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A file can grow to this size and no further, as on a disk that is full."""
    line = " ".join(f"'{part}'" for part in qcode._command(arguments))
    return subprocess.run(
        ["bash", "-c", f"ulimit -f {limit_kib}; exec {line} </dev/null"],
        capture_output=True,
        text=True,
        cwd=qcode.project,
        env=qcode.environment,
        timeout=60,
    )


def test_a_full_disk_is_said_and_the_work_is_done(qcode: Qcode) -> None:
    text = " ".join(f"{number} is a number of its own." for number in range(500))
    long = qcode.script({"text": text})
    done = run_limited(qcode, 4, "run", "work", f"--model={long}", "--output-format=stream-json")
    assert done.returncode == 0
    assert "warning: This session can no longer be stored (No space left on device)" in done.stderr
    warnings = [value for value in objects(done.stdout) if value.get("subtype") == "warning"]
    assert len(warnings) == 1
    assert "can no longer be stored" in warnings[0]["message"]
    assert_goes_on(qcode, said="work")


def test_a_place_for_sessions_that_is_none_is_said(qcode: Qcode) -> None:
    in_the_way = qcode.home / ".local" / "share" / "qcode" / "sessions"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    done = qcode.run("run", "work", f"--model={qcode.script({'text': 'Done.'})}")
    assert (done.returncode, done.stdout) == (0, "Done.\n")
    assert done.stderr.count("can no longer be stored") == 1


def test_a_killed_run_can_go_on(qcode: Qcode) -> None:
    """No handler runs: what was stored before must be enough."""
    slow = {"text": "A very slow answer. " * 200, "delay_s": 0.05}
    process = qcode.start(
        "run",
        "work",
        f"--model={qcode.script(slow)}",
        "--output-format=stream-json",
        "--include-partial-messages",
    )
    assert process.stdout is not None
    while "text_delta" not in process.stdout.readline():
        pass
    process.kill()
    process.wait(timeout=20)
    assert_goes_on(qcode, said="work")


def test_a_signal_while_the_answer_file_is_due_keeps_the_earlier_one(qcode: Qcode) -> None:
    kept = qcode.project / "answer"
    kept.write_text("of yesterday")
    slow = {"text": "A very slow answer. " * 200, "delay_s": 0.05}
    process = qcode.start("run", "work", f"--model={qcode.script(slow)}", "-o", "answer")
    assert process.stderr is not None
    session = qcode.home / ".local" / "share" / "qcode" / "sessions"
    until = time.monotonic() + 30
    while not list(session.glob("*/*.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert kept.read_text() == "of yesterday"
    assert [path.name for path in qcode.project.glob(".answer*")] == []


def test_the_reader_of_the_answers_pipe_may_come_after_the_answer(qcode: Qcode) -> None:
    pipe = qcode.project / "pipe"
    os.mkfifo(pipe)
    process = qcode.start("run", "do", f"--model={qcode.script({'text': 'Done.'})}", "-o", "pipe")
    assert process.stdout is not None
    assert process.stdout.readline() == "Done.\n"
    assert pipe.read_text() == "Done."
    assert process.wait(timeout=20) == 0


def test_waiting_for_the_reader_of_a_pipe_can_be_interrupted(qcode: Qcode) -> None:
    os.mkfifo(qcode.project / "pipe")
    process = qcode.start("run", "do", f"--model={qcode.script({'text': 'Done.'})}", "-o", "pipe")
    assert process.stdout is not None
    assert process.stdout.readline() == "Done.\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - began < MAX_END_S
