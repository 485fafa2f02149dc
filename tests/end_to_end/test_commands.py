"""`qcode settings`, `qcode doctor`, the command line's frame, and `qcode run` at a terminal."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest
from chat_server import ChatServer
from conftest import BROKEN, EDIT, MENDED, READ, Qcode
from ptyprocess import PtyProcess


def test_settings_name_the_source_of_each_value(qcode: Qcode) -> None:
    config = qcode.home / ".config" / "qcode" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("max_turns = 30\n")
    shown = qcode.run(
        "settings", environment={"OPENAI_API_KEY": "secret-1", "QCODE_DENY": "Bash(rm:*)"}
    )
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert f"max_turns = 30  ({config}:1: max_turns)" in lines
    assert "api_key = ********  (OPENAI_API_KEY)" in lines
    assert "deny = ['Bash(rm:*)']  (QCODE_DENY)" in lines
    assert "verify = -  (default)" in lines
    assert "secret-1" not in shown.stdout
    assert str(config) in lines[-1]


def test_a_bad_settings_file_stops_every_command_that_needs_it(qcode: Qcode) -> None:
    config = qcode.home / ".config" / "qcode" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("seed = 1\nmax_turn = 30\n")
    done = qcode.run("settings")
    assert (done.returncode, done.stdout) == (52, "")
    assert f"{config}:2: max_turn: there is no such setting\nhint: Did you mean max_turns?" in (
        done.stderr
    )
    assert qcode.run("run", "do").returncode == 52
    doctor = qcode.run("doctor")
    assert doctor.returncode == 1
    assert "missing settings" in doctor.stdout.replace("  ", " ")


def test_a_folder_is_trusted_and_distrusted(qcode: Qcode) -> None:
    (qcode.project / ".qcode").mkdir()
    (qcode.project / ".qcode" / "config.toml").write_text("seed = 7\n")
    assert "seed = -" in qcode.run("settings").stdout
    assert "is trusted" in qcode.run("settings", "trust").stdout
    assert "seed = 7" in qcode.run("settings").stdout
    qcode.run("settings", "distrust")
    assert "seed = -" in qcode.run("settings").stdout


def test_the_doctor_names_the_fix_for_what_is_missing(qcode: Qcode) -> None:
    done = qcode.run("doctor", environment={"PATH": ""})
    assert done.returncode == 1  # no model yet
    findings = done.stdout.splitlines()
    for position, line in enumerate(findings):
        if line.startswith(("missing", "note")):
            assert findings[position + 1].startswith("        fix: ")
    assert "        fix: qcode model pull qwen2.5-coder:" in done.stdout
    assert "note    git: not found" in done.stdout
    assert "note    compiler: no C++ compiler" in done.stdout


def test_the_doctor_asks_the_endpoint_of_the_environment(qcode: Qcode) -> None:
    with ChatServer([]) as server:
        done = qcode.run("doctor", environment={"OPENAI_BASE_URL": server.url})
        assert f"endpoint: {server.url} answers 200" in done.stdout
    assert done.returncode == 0
    assert "model" not in done.stdout.replace("models", "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = qcode.run("doctor", environment={"OPENAI_BASE_URL": url})
    assert done.returncode == 1
    assert f"missing endpoint: {url} does not answer" in done.stdout
    assert "fix: Start the server" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runn"], "No such command 'runn'"),
        (["--yolo", "run", "do"], "qcode run --option"),
        (["session"], "list"),
        ([], "needs a terminal"),
        (["--resume"], "needs a terminal"),
        (["--continue", "--resume=x"], "Choose one"),
    ],
)
def test_what_the_command_line_does_not_take(qcode: Qcode, arguments: list[str], says: str) -> None:
    done = qcode.run(*arguments)
    assert done.returncode == 2
    assert says in done.stdout + done.stderr


def at_terminal(qcode: Qcode, *keys: tuple[str, str]) -> tuple[str, int]:
    """Runs an edit at a terminal, where each text awaited is answered with keys: what was shown,
    and the exit code."""
    (qcode.project / "test_adding.py").unlink()  # tests to run would be a second question
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT]}, {"text": "Over."})
    process = PtyProcess.spawn(
        [sys.executable, "-m", "qcode", "run", "do", f"--model={script}"],
        cwd=str(qcode.project),
        env={**qcode.environment, "TERM": "xterm"},
    )
    shown = ""
    for awaited, typed in (*keys, ("", "")):
        while not awaited or awaited not in shown:
            try:
                shown += process.read(4096).decode()
            except EOFError:
                break
        process.write(typed.encode())
    return shown, process.wait()


@pytest.mark.parametrize(
    ("typed", "content"), [("y\n", MENDED), ("s\n", MENDED), ("n\n", BROKEN), ("\n", BROKEN)]
)
def test_a_person_at_the_terminal_is_asked(qcode: Qcode, typed: str, content: str) -> None:
    shown, code = at_terminal(qcode, ("Allow?", typed))
    assert code == 0
    assert "-    return a - b" in shown
    assert "+    return a + b" in shown
    assert (qcode.project / "adding.py").read_text() == content


def test_a_run_in_the_background_of_a_terminal_does_not_ask(qcode: Qcode) -> None:
    """Its question could be read but not answered: the attempt would stop the process."""
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT]}, {"text": "Over."})
    command = f"{sys.executable} -m qcode run do --model={script} & wait $!; echo code $?"
    process = PtyProcess.spawn(
        ["bash", "--norc", "-m", "-c", command],
        cwd=str(qcode.project),
        env={**qcode.environment, "TERM": "xterm"},
    )
    shown = ""
    with contextlib.suppress(EOFError):
        while True:
            shown += process.read(4096).decode()
    process.wait()
    assert "code 0" in shown
    assert "not allowed: Edit adding.py" in shown
    assert "Allow?" not in shown


def test_an_interrupt_at_the_question_ends_the_run(qcode: Qcode) -> None:
    shown, code = at_terminal(qcode, ("Allow?", "\x03"))
    assert code == 130
    assert "interrupted" in shown
    assert (qcode.project / "adding.py").read_text() == BROKEN


def test_a_task_in_the_place_of_a_command_is_told_how_to_be_given(qcode: Qcode) -> None:
    done = qcode.run("fix the failing test")
    assert done.returncode == 2
    assert 'qcode run "fix the failing test"' in done.stderr


def test_a_model_that_is_not_here_is_fetched_or_looked_up(qcode: Qcode) -> None:
    known = qcode.run("model", "info", "qwen2.5-coder:0.5b")
    assert "qcode model pull qwen2.5-coder:0.5b" in known.stderr
    unknown = qcode.run("model", "info", "nosuch")
    assert unknown.returncode == 1
    assert unknown.stderr == "error: No model 'nosuch' is installed.\nhint: See: qcode model list\n"


def test_a_model_file_that_is_not_there_is_called_a_file(qcode: Qcode) -> None:
    done = qcode.run("run", "hi", "--model", "missing.gguf")
    assert done.returncode == 52
    assert "There is no file missing.gguf." in done.stderr


def test_a_task_without_quotes_is_told_to_have_them(qcode: Qcode) -> None:
    done = qcode.run("run", "fix", "the", "test", "--yolo")
    assert done.returncode == 2
    assert "qcode run 'fix the test'" in done.stderr
