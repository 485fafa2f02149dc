"""Sessions survive crashes, damage, a full disk and a second process."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcode.agent.session import INTERRUPTED, Session
from qcode.agent.session_store import SessionStore, project_name, read_records
from qcode.protocol.errors import SessionError
from qcode.protocol.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions", tmp_path / "my project")


def only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "sessions").glob("*/*.jsonl")
    return path


def with_prompts(store: SessionStore, *prompts: str) -> Session:
    session = store.create()
    for prompt in prompts:
        session.add(UserMessage(content=prompt))
    session.sync()
    return session


def prompts(session: Session) -> list[str]:
    return [m.content for m in session.conversation() if isinstance(m, UserMessage)]


def test_no_file_before_the_first_entry(store: SessionStore, tmp_path: Path) -> None:
    store.create()
    assert not (tmp_path / "sessions").exists()


def test_files_are_for_the_owner_only(store: SessionStore, tmp_path: Path) -> None:
    with_prompts(store, "hi")
    path = only_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_reopened_session_goes_on_where_it_ended(store: SessionStore) -> None:
    session = with_prompts(store, "one", "zwei\u2028 \U0001f600")
    session.close()
    again = store.open(session.id)
    assert again.conversation() == session.conversation()
    assert again.take_notice() is None
    again.add(UserMessage(content="three"))
    again.close()
    last = store.open(session.id)
    assert prompts(last) == ["one", "zwei\u2028 \U0001f600", "three"]


def test_lines_are_ascii_and_numbered(store: SessionStore, tmp_path: Path) -> None:
    session = with_prompts(store, "ä", "b")
    session.close()
    close_again = store.open(session.id)
    close_again.add(UserMessage(content="c"))
    lines = only_file(tmp_path).read_bytes().splitlines()
    assert all(line.isascii() for line in lines)
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"two", b"owt"),  # valid JSON, wrong checksum
        lambda line: line[: len(line) // 2],
        lambda line: b"\x00\xff\xfe",
        lambda line: b"[]",
        lambda line: b'{"seq":1,"crc":0,"entry":null}',
    ],
)
def test_a_damaged_record_is_skipped_and_counted(
    store: SessionStore, tmp_path: Path, damage: object
) -> None:
    session = with_prompts(store, "one", "two", "three")
    session.close()
    path = only_file(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage(lines[1])  # type: ignore[operator]
    before = b"\n".join(lines)
    path.write_bytes(before)
    again = store.open(session.id)
    assert prompts(again) == ["one", "three"]
    assert again.take_notice() == "1 damaged record of this session could not be read."
    assert again.take_notice() is None
    assert path.read_bytes() == before  # never repaired in place


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(cut=st.integers(min_value=0, max_value=10_000))
def test_a_file_cut_anywhere_keeps_its_whole_records_and_takes_more(
    tmp_path: Path, cut: int
) -> None:
    store = SessionStore(tmp_path / f"sessions{cut}", tmp_path)
    session = with_prompts(store, "one", "two", "three")
    session.close()
    path = store.find(session.id).path
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n") + (cut < len(data) and data[cut : cut + 1] == b"\n")
    again = store.open(session.id)
    expected = ["one", "two", "three"][:whole]
    assert prompts(again) == expected
    again.add(UserMessage(content="more"))
    again.close()
    last = store.open(session.id)
    assert prompts(last) == [*expected, "more"]
    last.close()


def test_a_call_cut_off_by_a_crash_has_an_unknown_outcome(store: SessionStore) -> None:
    session = with_prompts(store, "hi")
    call = ToolCall(id="1", name="edit", arguments="{}")
    session.add(AssistantMessage(blocks=(call,), stop_reason="tool_calls", model="m"))
    session.close()
    last = store.open(session.id).conversation()[-1]
    assert last == ToolMessage(call_id="1", name="edit", content=INTERRUPTED, is_error=True)


def test_a_second_process_is_told_and_may_fork(store: SessionStore, tmp_path: Path) -> None:
    session = with_prompts(store, "hi")
    script = """
import sys
from pathlib import Path
from qcode.agent.session_store import SessionStore
from qcode.protocol.errors import SessionError
store = SessionStore(Path(sys.argv[1]), Path(sys.argv[2]))
try:
    store.open(sys.argv[3])
except SessionError as error:
    print(error.message, error.hint)
fork = store.fork(sys.argv[3])
print(fork.title, fork.id != sys.argv[3])
"""
    output = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "sessions", tmp_path / "my project", session.id],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "open in another process" in output
    assert output.endswith("hi True\n")


def test_the_lock_dies_with_its_process(store: SessionStore, tmp_path: Path) -> None:
    session = with_prompts(store, "hi")
    session.close()
    script = """
import os, signal, sys
from pathlib import Path
from qcode.agent.session_store import SessionStore
from qcode.protocol.messages import UserMessage
session = SessionStore(Path(sys.argv[1]), Path(sys.argv[2])).open(sys.argv[3])
session.add(UserMessage(content="second"))
session.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "sessions", tmp_path / "my project", session.id],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert prompts(store.open(session.id)) == ["hi", "second"]


def test_without_room_it_goes_on_in_memory_and_says_so_once(store: SessionStore) -> None:
    session = with_prompts(store, "one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.find(session.id).path.stat().st_size, hard))
    try:
        session.add(UserMessage(content="two"))
        session.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    notice = session.take_notice()
    assert notice is not None
    assert "in memory" in notice
    session.add(UserMessage(content="three"))
    assert session.take_notice() is None
    assert prompts(session) == ["one", "two", "three"]


def test_a_directory_that_cannot_be_made_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a file is in the way")
    session = with_prompts(SessionStore(tmp_path / "sessions", tmp_path), "hi")
    assert prompts(session) == ["hi"]
    assert session.take_notice() is not None


def test_sessions_are_listed_latest_first(store: SessionStore) -> None:
    assert store.latest() is None
    first, second = with_prompts(store, "first\nprompt", "x"), with_prompts(store, "second")
    os.utime(store.find(first.id).path, (1, 1))
    assert [(item.id, item.title) for item in store.list()] == [
        (second.id, "second"),
        (first.id, "first prompt"),
    ]
    latest = store.latest()
    assert latest is not None
    assert latest.id == second.id


def test_a_session_is_found_by_part_of_its_id(store: SessionStore) -> None:
    session = with_prompts(store, "hi")
    other = with_prompts(store, "ho")
    assert store.find(session.id[-8:]).id == session.id
    assert store.find(other.id).id == other.id
    with pytest.raises(SessionError, match="short for 2"):
        store.find(session.id[:4])
    with pytest.raises(SessionError, match="no session") as caught:
        store.find("zzz")
    assert f"{session.id} (hi)" in caught.value.hint
    with pytest.raises(SessionError):
        store.find("")


def test_projects_do_not_see_each_others_sessions(tmp_path: Path) -> None:
    with_prompts(SessionStore(tmp_path / "s", Path("/a/same")), "hi")
    assert SessionStore(tmp_path / "s", Path("/b/same")).list() == []


def test_project_names_are_safe_file_names() -> None:
    for path in ("/", "/a/ü b", "/a/..", "/" + "x" * 300):
        name = project_name(Path(path))
        assert name.isascii()
        assert "/" not in name
        assert len(name) < 60
        assert not name.startswith(".")


def test_reading_a_missing_file_is_a_session_error(tmp_path: Path) -> None:
    with pytest.raises(SessionError):
        read_records(tmp_path / "none.jsonl")
