"""What a model has read once stays cached when a session is resumed: the request begins with the
bytes of the one before, whatever day it is and whatever branch is checked out."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer, Received, say
from conftest import Qcode

WORD = "The project's word is heron."


@pytest.fixture
def server() -> Iterator[ChatServer]:
    calls = [("read_file", {"file_path": "adding.py"})]
    answers = [say("I look.", calls=calls), say("Seen."), *(say(f"{n}.") for n in range(3))]
    with ChatServer(answers, models=[{"id": "m", "max_model_len": 65_536}]) as server:
        yield server


def check_out(qcode: Qcode, branch: str) -> None:
    (qcode.project / ".git").mkdir(exist_ok=True)
    (qcode.project / ".git" / "HEAD").write_text(f"ref: refs/heads/{branch}\n")


def run(qcode: Qcode, server: ChatServer, *arguments: str) -> Received:
    """The last request of a run."""
    done = qcode.run("run", "go on", "--base-url", server.url, "--model", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return server.requests[-1]


def messages_of(request: Received) -> bytes:
    """The request's bytes to the end of its last message."""
    start, end, _ = request.raw.partition(b'],"stream"')
    assert end
    return start


def rest_of(request: Received) -> object:
    return {key: value for key, value in request.body.items() if key != "messages"}


def age(sessions: Path) -> None:
    """As if the sessions were of an earlier day."""
    (file,) = sessions.rglob("*.jsonl")
    lines = []
    for line in file.read_text().splitlines():
        record = json.loads(line)
        text = json.dumps(record["entry"], separators=(",", ":"))
        text = re.sub(r"Date: \d{4}-\d\d-\d\d", "Date: 2001-01-01", text)
        record = {"seq": record["seq"], "crc": zlib.crc32(text.encode()), "entry": json.loads(text)}
        lines.append(json.dumps(record))
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("how", ["--continue", "--resume"])
def test_a_resumed_session_begins_with_the_same_bytes(
    qcode: Qcode, server: ChatServer, how: str
) -> None:
    (qcode.project / "AGENTS.md").write_text(WORD)
    check_out(qcode, "one")
    first = run(qcode, server)
    check_out(qcode, "two")
    choice = ["--continue"]
    if how == "--resume":
        choice = ["--resume", qcode.run("session", "list").stdout.split()[0]]

    second = run(qcode, server, *choice)
    third = run(qcode, server, *choice)

    assert b"git, on one" in first.raw
    assert second.raw.startswith(messages_of(first))
    assert third.raw.startswith(messages_of(second))
    assert rest_of(first) == rest_of(second) == rest_of(third)


def test_another_day_leaves_the_prompt_as_it_is(qcode: Qcode, server: ChatServer) -> None:
    run(qcode, server)
    age(qcode.home)
    later = run(qcode, server, "--continue")
    assert b"Date: 2001-01-01" in later.raw


@pytest.mark.parametrize(
    "change", ["instructions", "--append-system-prompt=Be brief.", "--tools=Read", "--profile=lean"]
)
def test_what_changes_the_prompt_is_heeded(qcode: Qcode, server: ChatServer, change: str) -> None:
    check_out(qcode, "one")
    first = run(qcode, server)
    check_out(qcode, "two")
    arguments = ["--continue"]
    if change == "instructions":
        (qcode.project / "AGENTS.md").write_text(WORD)
    else:
        arguments.append(change)

    second = run(qcode, server, *arguments)

    system = second.body["messages"][0]["content"]
    assert "git, on two" in system
    assert (WORD in system) == (change == "instructions")
    assert ("Be brief." in system) == ("brief" in change)
    assert second.body["messages"][1:3] == first.body["messages"][1:3]
