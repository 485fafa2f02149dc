"""`-o FILE`: the answer in a file, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
import time
from pathlib import Path

from qcode.protocol.errors import BadInput

READER_WAIT_S = 5.0
_LOOK_AGAIN_S = 0.02


def check_place(file: Path) -> None:
    """Raises `BadInput` where no file can be: better before the work than after it."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{file}: there is no such folder.")
    if file.is_dir():
        raise BadInput(f"{file} is a folder.")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise BadInput(f"{file} cannot be written.")


async def write_answer(file: Path, text: str, *, wait_s: float = READER_WAIT_S) -> None:
    """As `write_whole`. Where the file is a pipe, its reader may come up to `wait_s` seconds late,
    and read as slowly as it likes. Raises `OSError`."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            await asyncio.to_thread(write_whole, file, text)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() >= deadline_s:
                raise
        else:
            return
        await asyncio.sleep(_LOOK_AGAIN_S)  # nothing tells when a pipe gets a reader


def write_whole(file: Path, text: str) -> None:
    """Puts a complete file in the place of an earlier one, which stays until then; a link keeps
    pointing where it does. What is no regular file, as /dev/stderr, is written to. Raises
    `OSError`."""
    target = file.resolve()
    if target.exists() and not target.is_file():
        _write_through(target, text)
        return
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as temporary:
            os.fchmod(temporary.fileno(), mode)
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write_through(target: Path, text: str) -> None:
    """To open a pipe that nobody reads would wait for ever, and no signal would end it: that is an
    error. Once open, it may fill up and be waited for."""
    descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _umask() -> int:
    """Can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
