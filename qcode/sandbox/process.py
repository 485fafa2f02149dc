"""Run one command line: watch its output, stop it in time, leave nothing of it behind.

A command runs in a session of its own, with no terminal, no standard input and an environment
built from an allow-list. Its output is always read, so a full pipe never blocks it, and kept
bounded: the first and last bytes in memory, the whole in a capped file.

Stopping goes from polite to final: SIGINT (a test runner then prints where it hung), SIGTERM,
SIGKILL, first to the process group, then to every descendant. Descendants are found as children of
children, by session, and by a mark in their environment, so one that left the group or lost its
parent is found too. A process that does all of that and drops its environment is not; only the
operating system's sandbox holds such a one.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from qcode.protocol.errors import ToolError
from qcode.protocol.values import dataclass

KEPT_BYTES = 16 * 1024
SPILL_LIMIT_BYTES = 64 * 1024 * 1024
INTERRUPT_GRACE_S = 5.0
TERMINATE_GRACE_S = 2.0
DRAIN_S = 0.25
_MARK = "QCODE_COMMAND_ID"
_POLL_S = 0.02

_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
    "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHON*", "PYENV_*", "UV_CACHE_DIR",
    "LD_LIBRARY_PATH", "JAVA_HOME", "GOPATH", "GOROOT", "GOCACHE", "CARGO_HOME", "RUSTUP_HOME",
    "NVM_DIR", "NODE_PATH", "XDG_*_HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "OMP_NUM_THREADS",
)  # fmt: skip
_NEVER_PASSED = ("*KEY*", "*TOKEN*", "*SECRET*", "*PASS*", "*CRED*", "*AUTH*")
_FIXED = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "EDITOR": "false",
    "GIT_EDITOR": "false",
    "GIT_TERMINAL_PROMPT": "0",
    "CI": "1",
    "NO_COLOR": "1",
    "QCODE": "1",
    # Two edits of one size within a second look the same to Python's cached bytecode.
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """`head` and `tail` are all the output there was, but for `omitted_bytes` between them; then
    `spill_path` names a file with all of it, as far as `SPILL_LIMIT_BYTES` goes. `exit_code` is
    128 + n after signal n."""

    exit_code: int
    timed_out: bool
    duration_s: float
    head: str
    tail: str = ""
    omitted_bytes: int = 0
    spill_path: Path | None = None

    @property
    def output(self) -> str:
        if not self.omitted_bytes:
            return self.head + self.tail
        where = f"; all of it is in {self.spill_path}" if self.spill_path else ""
        return f"{self.head}\n[... {self.omitted_bytes} bytes left out{where}]\n{self.tail}"


def child_environment(
    environment: Mapping[str, str], also_pass: tuple[str, ...] = ()
) -> dict[str, str]:
    """What a command may see of `environment`. `also_pass` are names the user has chosen; a name
    that looks like a secret is passed on only if it is one of them, word for word."""
    passed = {
        name: value
        for name, value in environment.items()
        if name in also_pass
        or (
            any(fnmatchcase(name, pattern) for pattern in _PASSED)
            and not any(fnmatchcase(name.upper(), pattern) for pattern in _NEVER_PASSED)
        )
    }
    return passed | _FIXED


async def run_command(
    command: str,
    *,
    directory: Path,
    timeout_s: float,
    on_output: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    spill_directory: Path | None = None,
) -> CommandResult:
    """Run `command` with bash, or sh where there is no bash, until the shell exits.

    Children it left in the background keep running; their output is no longer read. `environment`
    is the child's whole environment (default: `child_environment` of this process). Cancelling
    stops the command and all its descendants first. Raises `ToolError` if it cannot be started.
    """
    mark = secrets.token_hex(8)
    environment = child_environment(os.environ) if environment is None else environment
    output = _Output(on_output, spill_directory)
    started = time.monotonic()
    read_end, write_end = os.pipe()
    try:
        process = await _start(command, directory, {**environment, _MARK: mark}, write_end)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    reader = _PipeReader(read_end, output.add)
    exited = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({exited}, timeout=timeout_s)
        timed_out = not exited.done()
        if timed_out:
            await _stop(process.pid, exited, mark, interrupt=True)
        await reader.drain()
    except asyncio.CancelledError:
        # A second cancellation breaks off the waiting, never the killing.
        await asyncio.shield(_stop(process.pid, exited, mark, interrupt=False))
        raise
    finally:
        reader.close()
        output.close()
        if not exited.done():
            _kill_now(process.pid, mark)
    code = exited.result()
    return output.result(
        exit_code=code if code >= 0 else 128 - code,
        timed_out=timed_out,
        duration_s=time.monotonic() - started,
    )


async def _start(
    command: str, directory: Path, environment: Mapping[str, str], write_end: int
) -> asyncio.subprocess.Process:
    shell = shutil.which("bash") or shutil.which("sh") or "/bin/sh"
    try:
        return await asyncio.create_subprocess_exec(
            shell,
            "-c",
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ToolError(f"the command could not be started: {error}") from error


class _PipeReader:
    """Reads a pipe to its end on the event loop, whoever holds the other side."""

    def __init__(self, descriptor: int, add: Callable[[bytes], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._add = add
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        if data:
            self._add(data)
        else:
            self._loop.remove_reader(self._descriptor)
            self._ended.set()

    async def drain(self) -> None:
        """Wait for the end, though not long: a background child may hold the pipe open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), DRAIN_S)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)


class _Output:
    """The first and last `KEPT_BYTES`, and a file with everything once there is more."""

    def __init__(
        self, on_output: Callable[[str], None] | None, spill_directory: Path | None
    ) -> None:
        self._on_output = on_output
        self._spill_directory = spill_directory
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0
        self._spill: BinaryIO | None = None
        self._spill_path: Path | None = None
        self._spill_tried = False

    def add(self, data: bytes) -> None:
        if self._on_output is not None:
            text = self._decoder.decode(data)
            if text:
                self._on_output(text)
        self._total += len(data)
        room = KEPT_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > KEPT_BYTES and not self._spill_tried:
            self._spill_tried = True
            self._open_spill()
        elif self._spill is not None:
            self._write_spill(data)
        if len(self._tail) > 4 * KEPT_BYTES:
            del self._tail[:-KEPT_BYTES]

    def _open_spill(self) -> None:
        """A full disk must not fail the command: then there is no file, and the result says so."""
        with contextlib.suppress(OSError):
            if self._spill_directory is not None:
                self._spill_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(".txt", "qcode-output-", self._spill_directory)
            self._spill = os.fdopen(descriptor, "wb")
            self._spill_path = Path(name)
            self._write_spill(bytes(self._head + self._tail))

    def _write_spill(self, data: bytes) -> None:
        if self._spill is None:
            return
        with contextlib.suppress(OSError):
            self._spill.write(data[: max(0, SPILL_LIMIT_BYTES - self._spill.tell())])

    def close(self) -> None:
        if self._spill is not None:
            with contextlib.suppress(OSError):
                self._spill.close()

    def result(self, *, exit_code: int, timed_out: bool, duration_s: float) -> CommandResult:
        tail = bytes(self._tail[-KEPT_BYTES:])
        omitted = self._total - len(self._head) - len(tail)
        # Where nothing is left out the cut may lie inside a character: decode the two as one.
        head, tail = (bytes(self._head), tail) if omitted else (bytes(self._head) + tail, b"")
        return CommandResult(
            exit_code=exit_code,
            timed_out=timed_out,
            duration_s=duration_s,
            head=head.decode("utf-8", "backslashreplace"),
            tail=tail.decode("utf-8", "backslashreplace"),
            omitted_bytes=omitted,
            spill_path=self._spill_path if omitted else None,
        )


async def _stop(shell: int, exited: asyncio.Future[int], mark: str, *, interrupt: bool) -> None:
    """End the shell and all its descendants."""
    steps = [(signal.SIGTERM, TERMINATE_GRACE_S), (signal.SIGKILL, 1.0)]
    if interrupt:
        steps.insert(0, (signal.SIGINT, INTERRUPT_GRACE_S))
    family: dict[int, int] = {}
    for number, grace_s in steps:
        family |= _family(shell, mark)
        if not exited.done():
            _signal_group(shell, number)
        if number is not signal.SIGINT:
            _signal_each(family, number)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            if exited.done() and not _alive(family | _family(shell, mark)):
                return
            await asyncio.sleep(_POLL_S)
            if exited.done() and number is signal.SIGINT:
                break  # the shell has had its say; what it left behind is not asked twice
    _kill_now(shell, mark, family)
    await asyncio.wait({exited}, timeout=1.0)


def _kill_now(shell: int, mark: str, family: dict[int, int] | None = None) -> None:
    """SIGKILL until none is left that could fork another. Does not wait."""
    known = dict(family or {})
    for _ in range(20):
        known |= _family(shell, mark)
        living = _alive(known)
        if not living:
            return
        _signal_each(living, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_each(processes: dict[int, int], number: signal.Signals) -> None:
    for pid in _alive(processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    """One line of /proc/PID/stat: `started` (clock ticks since boot) tells a reused id apart."""

    parent: int
    session: int
    started: int
    is_zombie: bool


def _read_status(pid: int) -> _Status | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = line[line.rindex(")") + 2 :].split()  # the name before it may hold anything
    return _Status(
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        is_zombie=fields[0] in "ZX",
    )


def _alive(processes: dict[int, int]) -> dict[int, int]:
    living = {}
    for pid, started in processes.items():
        status = _read_status(pid)
        if status is not None and status.started == started and not status.is_zombie:
            living[pid] = started
    return living


def _family(shell: int, mark: str) -> dict[int, int]:
    """Process id -> start time of the shell and its descendants. Empty without /proc; then only
    the process group is reached."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return {}
    table = {pid: status for pid in pids if (status := _read_status(pid)) is not None}
    needle = f"{_MARK}={mark}".encode()
    members = {
        pid for pid, status in table.items() if status.session == shell or _has_mark(pid, needle)
    }
    grown = True
    while grown:
        children = {pid for pid, status in table.items() if status.parent in members} - members
        members |= children
        grown = bool(children)
    return {pid: table[pid].started for pid in members if not table[pid].is_zombie}


def _has_mark(pid: int, needle: bytes) -> bool:
    try:
        return needle in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
