"""Sessions on disk: one append-only file of JSON lines for each.

A line is one record, `{"seq": n, "crc": c, "entry": {...}}`, ASCII, written by a single
`os.write` to a descriptor opened with O_APPEND; `crc` is the CRC-32 of the entry's own JSON text.
So a crash can damage the last line only, and damage anywhere is noticed and skipped. The writer
holds `flock` on the file for its life: the kernel releases it when the process dies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.agent.session import Entry, Session
from qcode.protocol.errors import SessionError
from qcode.protocol.values import dataclass

if TYPE_CHECKING:
    from qcode.protocol.codec import Decoder

_MAX_TITLE_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """One line of a list of sessions."""

    id: str
    path: Path
    title: str
    modified: datetime


class SessionStore:
    """The sessions of one project directory, in `<directory>/<name of the project>/`."""

    def __init__(self, directory: Path, project: Path) -> None:
        self._directory = directory / project_name(project)

    def create(self) -> Session:
        """A new session. Its file appears with the first entry."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        session_id = f"{now}-{secrets.token_hex(4)}"
        return Session(session_id=session_id, log=SessionFile(self._path(session_id)))

    def open(self, session_id: str) -> Session:
        """Goes on with a stored session, as its one writer. Damaged records are skipped and
        counted in the session's notice. Raises `SessionError` where there is no such session, its
        id is short for several, or another process has it open."""
        stored = self.find(session_id)
        log = SessionFile(stored.path)
        log.lock()
        records = read_records(stored.path)
        log.resume(records)
        return Session(session_id=stored.id, entries=records.entries, log=log)

    def fork(self, session_id: str) -> Session:
        """A new session that begins with a stored one's entries, which stay as they are."""
        records = read_records(self.find(session_id).path)
        session = self.create()
        for entry in records.entries:
            session.append(entry)
        return session

    def latest(self) -> StoredSession | None:
        return next(iter(self.list()), None)

    def list(self) -> list[StoredSession]:
        """All sessions, the one changed last first."""
        found = []
        for path in self._directory.glob("*.jsonl"):
            try:
                modified = path.stat().st_mtime
            except FileNotFoundError:
                continue
            found.append(
                StoredSession(
                    id=path.stem,
                    path=path,
                    title=_title(path),
                    modified=datetime.fromtimestamp(modified, UTC),
                )
            )
        return sorted(found, key=lambda stored: (stored.modified, stored.id), reverse=True)

    def find(self, partial_id: str) -> StoredSession:
        """The session whose id is, begins with or ends in `partial_id`. Raises `SessionError`."""
        stored = self.list()
        exact = [item for item in stored if item.id == partial_id]
        matches = exact or [
            item
            for item in stored
            if partial_id and (item.id.startswith(partial_id) or item.id.endswith(partial_id))
        ]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise SessionError(
                f"There is no session {partial_id!r} of this directory.",
                hint=_newest(stored),
            )
        ids = ", ".join(item.id for item in matches[:5])
        raise SessionError(
            f"{partial_id!r} is short for {len(matches)} sessions: {ids}.",
            hint="Give more of the id.",
        )

    def _path(self, session_id: str) -> Path:
        return self._directory / f"{session_id}.jsonl"


def project_name(project: Path) -> str:
    """A directory name for a project path, readable and unique."""
    path = str(project)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name)[:40].strip("-.") or "root"
    return f"{readable}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a session file holds: its good entries, and how many lines were not."""

    entries: tuple[Entry, ...]
    last_seq: int
    num_damaged: int
    ends_in_newline: bool


def read_records(path: Path) -> Records:
    """Raises `SessionError` where the file cannot be read; damage is counted, not raised."""
    from qcode.protocol.codec import Decoder  # late: pydantic is slow to import and rarely needed

    decoder: Decoder[Entry] = Decoder(Entry)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SessionError(f"Cannot read the session {path.stem}: {error.strerror}") from error
    entries: list[Entry] = []
    last_seq = num_damaged = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        record = _read_record(line, decoder)
        if record is None:
            num_damaged += 1
        else:
            last_seq = max(last_seq, record[0])
            entries.append(record[1])
    return Records(
        entries=tuple(entries),
        last_seq=last_seq,
        num_damaged=num_damaged,
        ends_in_newline=data.endswith(b"\n") or not data,
    )


def _read_record(line: bytes, decoder: Decoder[Entry]) -> tuple[int, Entry] | None:
    try:
        record = json.loads(line)
        text = json.dumps(record["entry"], separators=(",", ":"))
        if record["crc"] != zlib.crc32(text.encode()):
            return None
        return int(record["seq"]), decoder.from_plain(record["entry"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class SessionFile:
    """The log of one session. After a failure to write (no space, read-only) it says so once and
    keeps nothing more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._seq = 0
        self._dirty = False
        self._failed = False
        self._notice: str | None = None

    def lock(self) -> None:
        """Opens the file as its one writer. Raises `SessionError` where another process has it."""
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise SessionError(
                f"The session {self._path.stem} is open in another process.",
                hint="Close it there, or start a new session here.",
            ) from error
        self._fd = fd

    def resume(self, records: Records) -> None:
        """Continues behind what `read_records` found."""
        self._seq = records.last_seq
        if not records.ends_in_newline:
            self._write(b"\n")
        if records.num_damaged:
            number = records.num_damaged
            noun = "record" if number == 1 else "records"
            self._notice = f"{number} damaged {noun} of this session could not be read."

    def write(self, entry: Entry) -> None:
        if self._failed:
            return
        from qcode.protocol.codec import to_plain  # late, as in read_records

        self._seq += 1
        text = json.dumps(to_plain(entry), separators=(",", ":"))
        crc = zlib.crc32(text.encode())
        self._write(f'{{"seq":{self._seq},"crc":{crc},"entry":{text}}}\n'.encode())

    def sync(self) -> None:
        if self._fd is None or not self._dirty:
            return
        try:
            _fdatasync(self._fd)
        except OSError as error:
            self._give_up(error)
        self._dirty = False

    def take_notice(self) -> str | None:
        notice, self._notice = self._notice, None
        return notice

    def close(self) -> None:
        """Releases the lock. Later entries open the file again."""
        if self._fd is not None:
            self.sync()
            os.close(self._fd)
            self._fd = None

    def _write(self, record: bytes) -> None:
        try:
            if self._fd is None:
                self._open_new()
            assert self._fd is not None
            if os.write(self._fd, record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._dirty = True
        except OSError as error:
            self._give_up(error)

    def _open_new(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        self._notice = (
            f"This session can no longer be stored ({error.strerror}); it goes on in memory only."
        )


def _newest(stored: list[StoredSession]) -> str:
    if not stored:
        return "No session has been stored here yet."
    return "The newest are: " + "; ".join(f"{item.id} ({item.title[:40]})" for item in stored[:3])


def _fdatasync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)  # macOS


def _title(path: Path) -> str:
    """The first prompt of a stored session, without reading more of the file than that takes."""
    for entry in _plain_entries(path):
        message = entry.get("message")
        if isinstance(message, dict) and message.get("role") == "user":
            return " ".join(str(message.get("content", "")).split())[:_MAX_TITLE_CHARS]
    return ""


def _plain_entries(path: Path) -> Iterator[dict[str, object]]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield dict(json.loads(line)["entry"])
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        return
