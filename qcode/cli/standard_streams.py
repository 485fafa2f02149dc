"""Standard streams that may be closed, or whose other end may go away."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable


def open_missing_streams() -> None:
    """A stream closed by the caller leaves its number to the next file that is opened, which would
    then receive what is printed: /dev/null takes the place first."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def write_stdout(text: str) -> None:
    """Raises `BrokenPipeError` where nobody reads."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be flushed once more, and complain, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def when_stdout_is_closed(act: Callable[[], None]) -> None:
    """Calls `act` once, on this event loop, when stdout is a pipe and its last reader goes away:
    a long command prints nothing for minutes, and would not notice by writing."""
    descriptor = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(descriptor)
        act()

    # The writing end of a pipe never becomes readable; only its error is reported.
    loop.add_reader(descriptor, closed)


def is_in_foreground(descriptor: int) -> bool:
    """Whether this is a terminal that this process may read: one in the background would be
    stopped by the attempt."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
