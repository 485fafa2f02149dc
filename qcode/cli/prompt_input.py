"""The prompt of `qcode run`: its argument, standard input, or both."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from qcode.protocol.errors import BadInput

MAX_BYTES = 4 << 20
# A parent process may leave a pipe open that nobody will ever write to.
SILENCE_S = 10.0


def read_prompt(
    argument: str | None,
    stdin: IO[str] | None,
    tell: Callable[[str], None],
    *,
    example: str = 'qcode run "fix the failing test"',
) -> str:
    """`-` or no argument: standard input is the prompt. With an argument, what is piped in is
    appended as context. Raises `BadInput` where that gives no prompt."""
    if argument is None or argument == "-":
        if stdin is None or (stdin.isatty() and argument is None):
            raise BadInput("There is no prompt.", f"Give one: {example}")
        prompt = _decoded(_read_all(stdin.fileno()))
    else:
        prompt = argument
        if stdin is not None and _is_piped(stdin.fileno()):
            piped = _decoded(_read_if_written(stdin.fileno(), tell))
            if piped.strip():
                prompt = f"{argument}\n\n<stdin>\n{piped.rstrip()}\n</stdin>"
    if not prompt.strip():
        raise BadInput("The prompt is empty.", f"Give one: {example}")
    return prompt


def read_file_or_stdin(name: str, stdin: IO[str]) -> str:
    """The text of a file, or of standard input for `-`. Raises `BadInput`."""
    if name == "-":
        return _decoded(_read_all(stdin.fileno()))
    try:
        return _decoded(Path(name).read_bytes(), name)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}.") from error


def _is_piped(descriptor: int) -> bool:
    """A pipe, a socket or a file was connected; a terminal or /dev/null says nothing."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _read_if_written(descriptor: int, tell: Callable[[str], None]) -> bytes:
    readable, _, _ = select.select([descriptor], [], [], 1.0)
    if not readable:
        tell(f"waiting up to {SILENCE_S:.0f} s for standard input (</dev/null: none)")
        readable, _, _ = select.select([descriptor], [], [], SILENCE_S - 1.0)
    if not readable:
        tell("warning: standard input stayed silent and is ignored; `qcode run -` waits for it")
        return b""
    return _read_all(descriptor)


def _read_all(descriptor: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise BadInput(f"Standard input is longer than {MAX_BYTES >> 20} MiB.")
    return b"".join(pieces)


def _decoded(data: bytes, name: str = "Standard input") -> str:
    if b"\0" in data:
        raise BadInput(f"{name} is binary, not text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text: {error}.") from error
