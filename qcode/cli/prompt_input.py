"""The prompt of `qcode run`: its argument, standard input, or both."""

from __future__ import annotations

import os
import secrets
import select
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from qcode.protocol.errors import BadInput
from qcode.protocol.values import dataclass
from qcode.tools.output_limit import limit_text

MAX_BYTES = 4 << 20
MAX_PIPED_BYTES = 64 << 20
# A parent process may leave a pipe open that nobody will ever write to; a command in front of a
# pipe may be slow. To lose its data would be worse than to wait.
SILENCE_S = 10.0
UNREMARKED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInput:
    """`task` is what is to be done, `piped` the data that came with it, as through a pipe."""

    task: str
    piped: str = ""


def read_prompt_input(
    argument: str | None,
    stdin: IO[str] | None,
    tell: Callable[[str], None],
    *,
    example: str = 'qcode run "fix the failing test"',
    wait: bool = False,
) -> PromptInput:
    """`-` or no argument: standard input is the task. With an argument, what is piped in is data,
    unless nothing comes for `SILENCE_S`; `wait` for it however long it takes. Raises `BadInput`
    where that gives no task."""
    piped = ""
    if argument is None or argument == "-":
        if stdin is None or (stdin.isatty() and argument is None):
            raise BadInput("There is no prompt.", f"Give one: {example}")
        task = _decoded(_read_all(stdin.fileno(), MAX_BYTES))
    else:
        task = argument
        if stdin is not None and wait:
            piped = _decoded(_read_all(stdin.fileno(), MAX_PIPED_BYTES))
        elif stdin is not None and _is_piped(stdin.fileno()):
            piped = _decoded(_read_if_written(stdin.fileno(), tell))
    if not task.strip():
        raise BadInput("The prompt is empty.", f"Give one: {example}")
    return PromptInput(task=task, piped=piped if piped.strip() else "")


def framed(prompt: PromptInput, *, max_chars: int, directory: Path) -> str:
    """The prompt as one text, the data marked as such. Of data longer than `max_chars` the head
    and the tail stand in it, and a file in `directory` holds the whole, for the model to search.
    Raises `BadInput` where that cannot be written."""
    if not prompt.piped:
        return prompt.task
    data, remark = prompt.piped.rstrip(), ""
    if len(data) > max_chars:
        file = _kept(prompt.piped, directory)
        data = limit_text(data, max_chars)
        remark = f"It is shown in part; all {len(prompt.piped):,} characters of it are in {file}\n"
    # Data that holds the closing mark must not be able to end itself.
    name = "stdin" if "</stdin>" not in data else f"stdin-{secrets.token_hex(4)}"
    return f"{prompt.task}\n\n{remark}<{name}>\n{data}\n</{name}>"


def _kept(text: str, directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(".txt", "qcode-stdin-", directory)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(
            f"Standard input is too long for the prompt and cannot be kept in {directory}: "
            f"{error.strerror}."
        ) from error
    return Path(name)


def read_prompt(
    argument: str | None,
    stdin: IO[str] | None,
    tell: Callable[[str], None],
    *,
    example: str,
) -> str:
    """As `read_prompt_input`, as one text with all the data in it."""
    prompt = read_prompt_input(argument, stdin, tell, example=example)
    return framed(prompt, max_chars=sys.maxsize, directory=Path())


def read_file_or_stdin(name: str, stdin: IO[str]) -> str:
    """The text of a file, or of standard input for `-`. Raises `BadInput`."""
    if name == "-":
        return _decoded(_read_all(stdin.fileno(), MAX_BYTES))
    try:
        return _decoded(Path(name).read_bytes(), name)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}.") from error


def _is_piped(descriptor: int) -> bool:
    """A pipe, a socket or a file was connected; a terminal or /dev/null says nothing."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _read_if_written(descriptor: int, tell: Callable[[str], None]) -> bytes:
    if not _is_readable(descriptor, UNREMARKED_S):
        tell(f"waiting {SILENCE_S:.0f} s for standard input; to go on without it: < /dev/null")
        if not _is_readable(descriptor, SILENCE_S - UNREMARKED_S):
            tell(
                "warning: standard input was silent and is ignored; "
                "to wait for it, put - after the task"
            )
            return b""
    return _read_all(descriptor, MAX_PIPED_BYTES)


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    """Also where the other end has been closed."""
    readable, _, _ = select.select([descriptor], [], [], timeout_s)
    return bool(readable)


def _read_all(descriptor: int, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise BadInput(f"Standard input is longer than {max_bytes >> 20} MiB.")
    return b"".join(pieces)


def _decoded(data: bytes, name: str = "Standard input") -> str:
    if b"\0" in data:
        raise BadInput(f"{name} is binary, not text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text: {error}.") from error
