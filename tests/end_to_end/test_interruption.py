"""Signals and closed pipes, at the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BROKEN, READ, Qcode, Step, call

SLOW = {"text": "A very slow answer. " * 200, "delay_s": 0.05}


def wait_for(process: subprocess.Popen[str], mark: str) -> str:
    """Reads the command's stdout up to the line that holds `mark`, and returns all of it."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if mark in line:
            return read
    raise AssertionError(f"ended without {mark!r}: {read}")


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, object]], float]:
    """Exit code, the objects still written, and how many seconds that took."""
    began = time.monotonic()
    stdout, _ = process.communicate(timeout=30)
    took_s = time.monotonic() - began
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], took_s


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_in_the_middle_of_an_answer(qcode: Qcode, number: int, code: int) -> None:
    process = qcode.start(
        "run",
        "do",
        f"--model={qcode.script(SLOW)}",
        "--output-format=stream-json",
        "--include-partial-messages",
    )
    wait_for(process, "text_delta")
    process.send_signal(number)
    returned, written, took_s = ended(process)
    assert returned == code
    assert took_s < 2
    results = [value for value in written if value["type"] == "result"]
    assert results == [written[-1]]
    assert written[-1]["is_error"] is True
    session_id = str(written[-1]["session_id"])
    assert "A very" in qcode.run("session", "show", session_id).stdout


def test_a_signal_in_the_middle_of_a_command_leaves_no_process(qcode: Qcode) -> None:
    pid_file = qcode.project / "pid"
    # The wait in the shell itself keeps the test from racing the program that starts it.
    command = f"sleep 300 & echo $! > {pid_file}.new && mv {pid_file}.new {pid_file}; wait"
    script = qcode.script({"calls": [call("run_shell_command", command=command)]})
    process = qcode.start("run", "do", f"--model={script}", "--yolo")
    pid = wait_for_pid(pid_file)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert not is_running(pid)


def attempts_at_work(qcode: Qcode, tmp_path: Path) -> tuple[subprocess.Popen[str], int, Path]:
    """A run of two attempts in a repository, the process id of a command that one of them runs,
    and the folder of the copies. The commands wait for the pipe `gate`."""
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=qcode.project, check=True)
    copies = tmp_path / "copies"
    copies.mkdir()
    qcode.environment["TMPDIR"] = str(copies)
    pid_file = tmp_path / "pid"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = f"echo $$ > {pid_file}.$$ && mv {pid_file}.$$ {pid_file}; cat {gate}; true"
    step = {"calls": [call("run_shell_command", command=command)]}
    flags = (f"--model={qcode.script(step, step)}", "--yolo", "--verify=true", "--best-of=2")
    process = qcode.start("run", "do", *flags)
    pid = wait_for_pid(pid_file)
    assert list(copies.glob("qcode-attempts-*/attempt-2/adding.py"))
    return process, pid, copies


def assert_no_copy(qcode: Qcode, copies: Path) -> None:
    assert list(copies.iterdir()) == []
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=qcode.project, check=True, capture_output=True, text=True
    )
    assert listed.stdout.count("\n") == 1
    assert (qcode.project / "adding.py").read_text() == BROKEN


def test_a_signal_among_several_attempts_leaves_no_copy(qcode: Qcode, tmp_path: Path) -> None:
    process, pid, copies = attempts_at_work(qcode, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert not is_running(pid)
    assert_no_copy(qcode, copies)


def test_copies_of_a_killed_process_are_taken_away_by_the_next(
    qcode: Qcode, tmp_path: Path
) -> None:
    """And those of one that still works are left alone."""
    process, _, copies = attempts_at_work(qcode, tmp_path)
    answer = {"text": "Done."}
    model = qcode.script(answer, answer, answer, answer)
    again = ("run", "do", f"--model={model}", "--verify=true", "--best-of=2")
    assert qcode.run(*again).returncode == 0
    assert len(list(copies.glob("qcode-attempts-*/attempt-*/adding.py"))) == 2

    process.kill()
    process.wait(timeout=20)
    os.close(os.open(tmp_path / "gate", os.O_WRONLY))  # nobody else ends the commands
    assert qcode.run(*again).returncode == 0
    assert_no_copy(qcode, copies)


def test_a_signal_before_there_is_a_turn(qcode: Qcode) -> None:
    """Something that cannot be interrupted is under way: here a read of standard input."""
    process = qcode.start(
        "run", "do", "--output-format=stream-json", "--model=m", stdin=subprocess.PIPE
    )
    assert process.stderr is not None
    assert "standard input" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    returned, written, took_s = ended(process)
    assert returned == 143
    assert took_s < 2
    assert [value["type"] for value in written] == ["system", "result"]


def is_running(pid: int) -> bool:
    """Whether there is such a process that is more than an entry its parent has not read yet."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def wait_for_pid(file: Path) -> int:
    until = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(file.read_text())


def test_a_hurried_second_interrupt_leaves_at_once(qcode: Qcode) -> None:
    """A command that ignores every polite signal holds up the end of the turn, not the program."""
    pid_file = qcode.project / "pid"
    command = f"trap '' INT TERM; echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 300"
    script = qcode.script({"calls": [call("run_shell_command", command=command)]})
    process = qcode.start("run", "do", f"--model={script}", "--yolo")
    pid = wait_for_pid(pid_file)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # as a person does; nothing is awaited by it
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - began < 1.8  # the polite end takes two seconds and more
    assert not is_running(pid)


def test_a_reader_that_goes_away_ends_the_run(qcode: Qcode) -> None:
    steps: list[Step] = [{"calls": [READ], "delay_s": 0.02}] * 30
    process = qcode.start(
        "run", "do", f"--model={qcode.script(*steps)}", "--output-format=stream-json"
    )
    wait_for(process, "init")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_closed_from_the_beginning(qcode: Qcode, closed: str) -> None:
    command = [*qcode._command(("run", "do", f"--model={qcode.script({'text': 'Yes.'})}"))]
    line = " ".join(f"'{part}'" for part in command)
    done = subprocess.run(
        ["bash", "-c", f"{line} {closed}"],
        capture_output=True,
        text=True,
        cwd=qcode.project,
        env=qcode.environment,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout == ("" if "1>&-" in closed else "Yes.\n")
    listed = qcode.run("session", "list").stdout
    assert "Yes." in qcode.run("session", "show", listed.split()[0]).stdout


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["run", "do"]),
        ("pydantic", ["run", "do", "--model=scripted:none"]),
        ("pydantic", ["settings"]),
        ("pydantic", ["session", "list"]),
    ],
)
def test_a_signal_while_the_program_is_loaded_ends_it_without_a_word(
    qcode: Qcode, tmp_path: Path, module: str, arguments: list[str]
) -> None:
    """The module named takes for ever to load."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / f"{module}.py").write_text(
        "import os, time\nos.write(1, b'loading\\n')\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(slow), qcode.environment["PYTHONPATH"]])
    process = qcode.start(*arguments, environment={"PYTHONPATH": path})
    wait_for(process, "loading")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, "")
