"""`qcode run`: the work it does, what it writes where, and every row of the exit code table."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, refuse, say
from conftest import BROKEN, EDIT, MENDED, READ, RUN_TEST, Qcode, Step, call

FIX: list[Step] = [
    {"text": "I look.", "calls": [READ]},
    {"calls": [EDIT]},
    {"text": "Fixed: it adds now."},
]


def objects(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_a_failing_test_is_fixed_through_a_real_endpoint(qcode: Qcode) -> None:
    edit = ("edit", EDIT["arguments"])
    read = ("read_file", READ["arguments"])
    test = ("run_shell_command", {"command": RUN_TEST})
    answers = [say("I look.", calls=[read]), say(calls=[edit]), say(calls=[test]), say("Fixed.")]
    with ChatServer(answers) as server:
        done = qcode.run(
            "run",
            "make add right",
            "--allow=Edit",
            "--allow=Bash(python -m unittest:*)",
            environment={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "key-1"},
        )
        requests = server.requests
    checked = "Checked: `python -m unittest -q test_adding` succeeds."
    assert (done.returncode, done.stdout) == (0, f"Fixed.\n\n{checked}\n")
    assert (qcode.project / "adding.py").read_text() == MENDED
    chats = [request for request in requests if request.path.endswith("/chat/completions")]
    assert {request.headers["authorization"] for request in chats} == {"Bearer key-1"}
    last = chats[-1].body["messages"]
    assert [message["role"] for message in last] == [
        "system",
        "user",
        *(["assistant", "tool"] * 3),
    ]
    assert "OK" in last[-1]["content"]
    assert "• Edit adding.py" in done.stderr
    assert "key-1" not in done.stderr


def test_a_failing_test_is_fixed_as_continuous_integration_would(qcode: Qcode) -> None:
    """The goal is a failing test: it is run first, and the model is shown what fails."""
    done = qcode.run(
        "run",
        "fix the failing test",
        f"--model={qcode.script({'calls': [READ]}, {'calls': [EDIT]}, {'text': 'Fixed.'})}",
        "--allow=Edit",
        "--allow=Bash",
        f"--verify={RUN_TEST}",
        "--output-format=stream-json",
        "--max-turns=40",
    )
    assert done.returncode == 0, done.stderr
    assert (qcode.project / "adding.py").read_text() == MENDED
    written = objects(done.stdout)
    assert written[0]["subtype"] == "init"
    assert written[-1]["subtype"] == "success"
    assert "FAILED" in done.stdout


def test_without_a_yes_nothing_is_changed_and_the_rule_is_named(qcode: Qcode) -> None:
    command = call("run_shell_command", command="touch made && python x.py")
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT, command]}, {"text": "I could not."})
    done = qcode.run("run", "do", f"--model={script}", "--output-format=stream-json")
    assert done.returncode == 0
    assert (qcode.project / "adding.py").read_text() == BROKEN
    assert not (qcode.project / "made").exists()
    assert "qcode run --allow 'Edit' ..." in done.stderr
    assert "--allow 'Bash(touch made)' --allow 'Bash(python x.py)'" in done.stderr
    denials = objects(done.stdout)[-1]["permission_denials"]
    assert isinstance(denials, list)
    assert [denial["tool_name"] for denial in denials] == ["edit", "run_shell_command"]


def test_what_was_named_as_the_rule_is_then_allowed(qcode: Qcode) -> None:
    command = call("run_shell_command", command="touch made && python -c pass")
    script = qcode.script({"calls": [command]}, {"text": "Done."})
    arguments = ("run", "do", f"--model={script}")
    refused = qcode.run(*arguments)
    assert not (qcode.project / "made").exists()
    line = next(line for line in refused.stderr.splitlines() if "allow it with" in line)
    rules = [part for part in line.split("'") if part.startswith("Bash(")]
    qcode.run(*arguments, *(f"--allow={rule}" for rule in rules))
    assert (qcode.project / "made").exists()


def test_a_deny_rule_holds_in_yolo(qcode: Qcode) -> None:
    denied = qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "--yolo", "--deny=Edit(*.py)")
    assert "deny rule Edit(*.py)" in denied.stderr
    assert (qcode.project / "adding.py").read_text() == BROKEN
    qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "--yolo")
    assert (qcode.project / "adding.py").read_text() == MENDED


def test_the_answer_alone_is_on_stdout_and_in_the_file(qcode: Qcode) -> None:
    done = qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "-o", "answer.txt")
    assert done.stdout == "Fixed: it adds now.\n"
    assert (qcode.project / "answer.txt").read_text() == "Fixed: it adds now."


def test_json_is_one_array_that_ends_in_the_result(qcode: Qcode) -> None:
    done = qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "--output-format=json")
    written = json.loads(done.stdout)
    assert [value["type"] for value in written] == [
        "system",
        *(["assistant", "user"] * 2),
        "assistant",
        "result",
    ]
    assert written[-1]["result"] == "Fixed: it adds now."
    assert written[-1]["num_turns"] == 3


def test_partial_messages_are_told_on_request(qcode: Qcode) -> None:
    script = qcode.script({"text": "A long enough answer."})
    arguments = ("run", "do", f"--model={script}", "--output-format=stream-json")
    plain = objects(qcode.run(*arguments).stdout)
    partial = objects(qcode.run(*arguments, "--include-partial-messages").stdout)
    told = [value for value in partial if value["type"] != "stream_event"]
    assert [value["type"] for value in told] == [value["type"] for value in plain]
    text = "".join(
        value["event"]["delta"]["text"]
        for value in partial
        if value["type"] == "stream_event" and value["event"]["type"] == "content_block_delta"
    )
    assert text == "A long enough answer."


def test_the_prompt_from_standard_input_beside_the_argument(qcode: Qcode) -> None:
    script = qcode.script({"expect": "explain\n\n<stdin>\nthe log", "text": "It says so."})
    assert qcode.run("run", "explain", f"--model={script}", stdin="the log\n").returncode == 0
    script = qcode.script({"expect": "only this", "text": "Yes."})
    assert qcode.run("run", f"--model={script}", stdin="only this").stdout == "Yes.\n"


def test_another_directory(qcode: Qcode, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "here.txt").write_text("found it")
    script = qcode.script(
        {"calls": [call("read_file", file_path="here.txt")]},
        {"expect": "found it", "text": "Read."},
    )
    assert qcode.run("run", "read", f"--model={script}", "-C", str(other)).returncode == 0


def test_a_session_is_continued_and_resumed_and_listed(qcode: Qcode) -> None:
    first = qcode.script({"text": "I will remember it."})
    qcode.run("run", "the word is heron", f"--model={first}")
    again = qcode.script({"expect": "which", "text": "Heron."})
    listed = qcode.run("session", "list").stdout
    session_id = listed.split()[0]
    assert "the word is heron" in listed
    continued = qcode.run("run", "which word?", f"--model={again}", "--continue")
    assert continued.stdout == "Heron.\n"
    resumed = qcode.run(
        "run", "which again?", f"--model={again}", "--resume", session_id[-8:], "--ephemeral"
    )
    assert resumed.returncode == 2  # a session that is kept cannot also not be kept
    resumed = qcode.run("run", "which again?", f"--model={again}", "--resume", session_id[-8:])
    assert resumed.returncode == 0
    shown = qcode.run("session", "show", session_id).stdout
    prompts = [line for line in shown.splitlines() if line.startswith("> ")]
    assert prompts == ["> the word is heron", "> which word?", "> which again?"]
    assert qcode.run("session", "rm", session_id).returncode == 0
    assert session_id not in qcode.run("session", "list").stdout


def test_an_ephemeral_run_leaves_no_session(qcode: Qcode) -> None:
    done = qcode.run("run", "do", f"--model={qcode.script({'text': 'Yes.'})}", "--ephemeral")
    assert done.stdout == "Yes.\n"
    assert "no conversation" in qcode.run("session", "list").stdout


# The table of exit codes; interruption and closed pipes are in test_interruption.py.


@pytest.mark.parametrize(
    ("error", "code"),
    [("authentication", 41), ("unavailable", 75), ("rate_limited", 75), ("invalid_response", 1)],
)
def test_a_failing_model(qcode: Qcode, error: str, code: int) -> None:
    script = qcode.script({"error": {"type": error, "message": "The server said no."}})
    done = qcode.run("run", "do", f"--model={script}", "--output-format=stream-json")
    assert done.returncode == code
    assert "error: The server said no." in done.stderr
    assert objects(done.stdout)[-1]["is_error"] is True


def test_an_endpoint_that_refuses_the_key(qcode: Qcode) -> None:
    with ChatServer([refuse(401, "bad key")]) as server:
        done = qcode.run("run", "do", f"--base-url={server.url}", "--model=m")
    assert done.returncode == 41
    assert done.stdout == ""


def test_an_endpoint_that_is_not_there(qcode: Qcode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = qcode.run("run", "do", f"--base-url=http://127.0.0.1:{port}/v1", "--model=m")
    assert done.returncode == 75
    assert f"127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (["do", "--no-such-flag"], None, 2, "--no-such-flag"),
        (["do", "--output-format=xml"], None, 2, "xml"),
        (["do", "--yolo", "--approval-mode=plan"], None, 2, "contradicts"),
        (["do", "-C", "/no/such/folder"], None, 2, "does not exist"),
        ([], None, 42, "prompt is empty"),
        ([], b"\xff\xff", 42, "not UTF-8"),
        (["do", "--resume=nothing"], None, 42, "no session 'nothing'"),
        (["do", "--continue"], None, 42, "no earlier conversation"),
        (["do", "-o", "/no/such/folder/file"], None, 42, "no such folder"),
        (["do", "--allow=Bsh(ls)"], None, 52, "--allow: malformed permission rule"),
        (["do", "--max-turns=0"], None, 52, "--max-turns"),
        (["do", "--max-wall-time=soon"], None, 52, "--max-wall-time"),
        (["do", "--base-url=localhost"], None, 52, "--base-url"),
        (["do", "--model=no-such-model"], None, 52, "no-such-model"),
        (["do", "--model=scripted:/no/such/file"], None, 52, "/no/such/file"),
        (["do"], None, 52, "qcode model pull"),
    ],
)
def test_what_cannot_begin(
    qcode: Qcode, arguments: list[str], stdin: bytes | None, code: int, says: str
) -> None:
    done = qcode.run("run", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_begin_still_ends_in_one_result(qcode: Qcode) -> None:
    done = qcode.run("run", "do", "--model=no-such-model", "--output-format=stream-json")
    assert [value["type"] for value in objects(done.stdout)] == ["system", "result"]
    assert objects(done.stdout)[-1]["is_error"] is True


@pytest.mark.parametrize(
    ("limit", "code", "subtype"),
    [
        ("--max-turns=1", 53, "error_max_turns"),
        ("--max-tool-calls=1", 55, "error_during_execution"),
    ],
)
def test_limits(qcode: Qcode, limit: str, code: int, subtype: str) -> None:
    script = qcode.script({"calls": [READ, READ]}, {"calls": [READ]}, {"text": "Done."})
    done = qcode.run("run", "do", f"--model={script}", limit, "--output-format=stream-json")
    assert done.returncode == code
    assert objects(done.stdout)[-1]["subtype"] == subtype


def test_the_limit_of_time_stops_a_command(qcode: Qcode) -> None:
    script = qcode.script({"calls": [call("run_shell_command", command="sleep 60")]})
    done = qcode.run(
        "run", "do", f"--model={script}", "--yolo", "--max-wall-time=1.5", timeout_s=20
    )
    assert done.returncode == 55


def test_a_verify_command_that_keeps_failing(qcode: Qcode) -> None:
    script = qcode.script(*[{"text": "Done, I think."}] * 5)
    done = qcode.run("run", "do", f"--model={script}", f"--verify={RUN_TEST}")
    assert (done.returncode, done.stdout) == (60, "")


def test_settings_of_an_untrusted_project_do_nothing(qcode: Qcode) -> None:
    (qcode.project / ".qcode").mkdir()
    file = qcode.project / ".qcode" / "config.toml"
    file.write_text('deny = ["Edit"]\n')
    done = qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "--allow=Edit")
    assert (qcode.project / "adding.py").read_text() == MENDED
    assert f"{file} is ignored" in done.stderr
    (qcode.project / "adding.py").write_text(BROKEN)
    qcode.run("run", "do", f"--model={qcode.script(*FIX)}", "--allow=Edit", "--trust")
    assert (qcode.project / "adding.py").read_text() == BROKEN


def test_instructions_of_the_folder_are_read(qcode: Qcode) -> None:
    (qcode.project / "AGENTS.md").write_text("Say everything in Latin.")
    with ChatServer([say("Salve.")]) as server:
        qcode.run("run", "greet", f"--base-url={server.url}", "--model=m")
        system = server.requests[-1].body["messages"][0]["content"]
    assert "Say everything in Latin." in system


def test_of_several_attempts_one_that_passes_is_kept(qcode: Qcode) -> None:
    mend = call("run_shell_command", command="sed -i 's/a - b/a + b/' adding.py")
    script = qcode.script(*[{"calls": [mend]}] * 2, *[{"text": "Done."}] * 2)
    flags = (f"--model={script}", "--yolo", f"--verify={RUN_TEST}", "--best-of=2")
    done = qcode.run("run", "do", *flags)
    assert done.returncode == 0, done.stderr
    assert (qcode.project / "adding.py").read_text() == MENDED
    assert "of 2 passed; changed: adding.py." in done.stdout
    done = qcode.run("run", "do", f"--model={script}", "--best-of=2")
    assert done.returncode == 52
    assert "--verify" in done.stderr


def test_what_was_run_to_check_the_work_is_in_the_result(qcode: Qcode) -> None:
    flags = ("--allow=Edit", "--output-format=stream-json")
    refused = qcode.run("run", "do", f"--model={qcode.script(*FIX)}", *flags)
    assert refused.returncode == 0
    result = objects(refused.stdout)[-1]
    check = result["verification"]
    assert isinstance(check, dict)
    assert (check["kind"], check["exit_code"]) == ("tests", None)
    assert "was not run. Permission denied" in str(check["summary"])

    (qcode.project / "adding.py").write_text(BROKEN)
    script = qcode.script(*FIX)
    allowed = qcode.run("run", "do", f"--model={script}", *flags, f"--verify={RUN_TEST}")
    check = objects(allowed.stdout)[-1]["verification"]
    assert isinstance(check, dict)
    assert (check["kind"], check["command"], check["exit_code"]) == ("verify", RUN_TEST, 0)
