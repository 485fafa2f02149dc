"""The command and the endpoints around it: named, found, probed."""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from chat_server import ChatServer, refuse, say, send
from conftest import Qcode

from qcode.protocol.messages import Usage

LISTED = {"id": "org/m", "owned_by": "library"}
OLLAMA = {
    "/api/ps": {"models": [{"name": "org/m", "context_length": 4096}]},
    "/api/show": {"modelfile": "FROM x", "model_info": {}},
}
PROBE_ANSWERS = [
    say("The sea is wide. The sea is deep.", usage=Usage(input_tokens=20, output_tokens=9)),
    send('data: {"choices": [{"delta": {"content": "one"}, "finish_reason": "length"}]}\n\n'),
    say(calls=[("get_weather", {"city": "Paris"})]),
    say(calls=[("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Tokyo"})]),
    refuse(400, "prompt too long; exceeded max context length by 900 tokens"),
    refuse(400, "no images"),
]


@contextmanager
def first_free(ports: tuple[int, ...]) -> Iterator[ChatServer]:
    for port in ports:
        with suppress(OSError), ChatServer([], models=[LISTED], port=port) as server:
            yield server
            return
    pytest.fail("every usual port is taken")


def settings_file(qcode: Qcode, text: str) -> None:
    file = qcode.home / ".config" / "qcode" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)


def test_a_named_model_is_asked_as_its_table_says(qcode: Qcode) -> None:
    with ChatServer([say("Hello.")], models=[{"id": "org/m", "max_model_len": 65_536}]) as server:
        settings_file(
            qcode,
            f"""
[models.lab]
base_url = "{server.url}"
model = "org/m"
api_key = '!"{sys.executable}" -c "print(11 * 11)"'
headers = {{ X-Team = "env:TEAM" }}
extra_body = {{ top_k = 7 }}
max_output_tokens = 100000
[models.lab.sampling]
temperature = 0.25
""",
        )
        environment = {"TEAM": "blue", "OPENAI_BASE_URL": "http://127.0.0.1:1"}
        done = qcode.run("run", "--model", "lab", "say hello", environment=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "Hello.")
    request = server.requests[-1]
    assert request.headers["authorization"] == "Bearer 121"
    assert request.headers["x-team"] == "blue"
    body = request.body
    assert (body["model"], body["top_k"], body["temperature"]) == ("org/m", 7, 0.25)
    assert 50_000 < body["max_tokens"] < 65_536


def test_a_key_that_cannot_be_had_stops_the_run_without_a_word_of_it(qcode: Qcode) -> None:
    settings_file(
        qcode, '[models.lab]\nbase_url = "http://a"\napi_key = "!echo sk-hidden; exit 1"\n'
    )
    done = qcode.run("run", "--model", "lab", "hello")
    assert done.returncode == 52
    assert "models.lab.api_key: the command for the key failed" in done.stderr
    assert "hidden" not in done.stderr


def test_a_small_window_is_told_once(qcode: Qcode) -> None:
    with ChatServer([say("Hi.")], models=[LISTED], routes=OLLAMA) as server:
        done = qcode.run("run", "--base-url", server.url, "--model", "org/m", "hi")
    assert done.returncode == 0
    assert done.stderr.count("4,096 tokens, little for work on code") == 1
    assert "OLLAMA_CONTEXT_LENGTH=32768 ollama serve" in done.stderr


def test_the_doctor_probes_an_endpoint_and_the_backend_uses_what_it_found(qcode: Qcode) -> None:
    stubborn = refuse(400, "Unrecognized request argument supplied: stream_options")
    answers = [stubborn, *PROBE_ANSWERS, say("Hi.")]
    with ChatServer(answers, models=[LISTED], routes=OLLAMA) as server:
        done = qcode.run("doctor", "--endpoint", server.url)
        run = qcode.run("run", "--base-url", server.url, "--model", "org/m", "hi")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines if line][:12] == [
        *["ok"] * 6,
        *["ok"] * 3,
        "note",
        "skipped",
        "ok",
    ]
    assert "OLLAMA_CONTEXT_LENGTH" in done.stdout
    assert "Kept for later runs: " in done.stdout
    assert run.returncode == 0
    assert "stream_options" not in server.requests[-1].body


def test_the_doctors_results_as_json(qcode: Qcode) -> None:
    with ChatServer(PROBE_ANSWERS, models=[LISTED], routes=OLLAMA) as server:
        done = qcode.run(
            "doctor",
            *("--endpoint", server.url, "--key", "env:MINE", "--json"),
            environment={"MINE": "sk-very-secret"},
        )
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert (found["model"], found["base_url"]) == ("org/m", server.url)
    assert len(found["results"]) == 12
    assert found["results"][0] == {
        "probe": "reachable",
        "verdict": "ok",
        "text": f"Ollama at {server.url}",
        "fix": "",
    }
    assert found["profile"]["context_window"] == 4096
    assert server.requests[-1].headers["authorization"] == "Bearer sk-very-secret"
    stored = "".join(
        file.read_text(errors="replace") for file in qcode.home.rglob("*") if file.is_file()
    )
    assert "sk-very-secret" not in done.stdout + done.stderr + stored


def test_the_doctor_fails_where_nothing_answers(qcode: Qcode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = qcode.run("doctor", "--endpoint", url, "--model", "m")
    assert done.returncode == 1
    assert done.stdout.startswith("missing  reachable       nothing answers at")
    assert "Kept" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--endpoint", "lab"], 52, "neither a URL nor a named model"),
        (["--endpoint", "http://a", "--key", "env:UNSET"], 52, "UNSET is not set"),
        (["--json"], 2, "go with --endpoint"),
    ],
)
def test_what_the_doctor_does_not_take(
    qcode: Qcode, arguments: list[str], code: int, says: str
) -> None:
    done = qcode.run("doctor", *arguments)
    assert done.returncode == code
    assert says in done.stderr


def test_a_server_found_on_this_machine_is_offered_and_not_used(qcode: Qcode) -> None:
    """At one of the usual ports, whichever is free here."""
    with first_free((11434, 1234, 8080, 8000, 30000)) as server:
        run = qcode.run("run", "hello")
        doctor = qcode.run("doctor")
    flags = f"--base-url {server.url} --model org/m"
    assert run.returncode == 52
    assert f'which answers here: qcode run {flags} "PROMPT"' in run.stderr
    assert {request.path for request in server.requests} == {"/v1/models"}
    assert f"to use it: qcode {flags}" in doctor.stdout


def test_a_small_model_writes_whole_files_unless_told_otherwise(qcode: Qcode) -> None:
    offered = []
    for strength, edit_format in (("small", ""), ("large", ""), ("small", "replace")):
        with ChatServer([say("Hello.")], models=[LISTED]) as server:
            settings_file(
                qcode,
                (f'edit_format = "{edit_format}"\n' if edit_format else "")
                + f'[models.lab]\nbase_url = "{server.url}"\nstrength = "{strength}"\n',
            )
            assert qcode.run("run", "--model", "lab", "say hello").returncode == 0
        tools = {tool["function"]["name"] for tool in server.requests[-1].body["tools"]}
        assert "write_file" in tools
        offered.append("edit" in tools)
    assert offered == [False, True, True]


def test_a_password_in_a_url_is_used_and_never_shown(qcode: Qcode) -> None:
    with ChatServer([say("Hello.")], models=[LISTED]) as server:
        url = server.url.replace("://", "://me:hidden@")
        environment = {"OPENAI_BASE_URL": url}
        for arguments in (
            ["run", "say hello", "--model", "org/m"],
            ["settings"],
            ["doctor"],
            ["run", "hi", "--model=m", f"--base-url={url.replace('/v1', ':x/v1')}"],
        ):
            done = qcode.run(*arguments, environment=environment)
            assert "hidden" not in done.stdout + done.stderr
    asked = [request for request in server.requests if request.path.endswith("/models")]
    assert asked
    basic = "Basic " + base64.b64encode(b"me:hidden").decode()
    assert {request.headers["authorization"] for request in server.requests} == {basic}
