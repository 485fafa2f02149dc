"""Commands that print a key, as settings name them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from qcode.protocol.errors import SettingsError

TIMEOUT_S = 30.0
_MAX_SECRET = 16_384


def output_of(
    command: str, *, place: str, environment: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> str:
    """What the command prints, by the shell, without the white space around it. It has no terminal
    and no input, and whatever it has started ends with it at the time limit.

    Raises SettingsError, which names the `place` and nothing that was printed.
    """
    try:
        process = subprocess.Popen(
            command,
            shell=True,  # written by the user into his own settings file
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise SettingsError(f"{place}: the command for the key cannot be run: {error}") from None
    with process:
        try:
            written, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise SettingsError(
                f"{place}: the command for the key did not end within {timeout_s:.0f} s",
                "It gets no terminal and no input, so it cannot ask for anything.",
            ) from None
        except BaseException:
            _kill_group(process)
            raise
    if process.returncode != 0:
        raise SettingsError(
            f"{place}: the command for the key failed (exit {process.returncode})",
            "Run it in a shell to see what it says.",
        )
    secret = os.fsdecode(written[: _MAX_SECRET + 1]).strip()
    if not secret or len(secret) > _MAX_SECRET or "\n" in secret:
        raise SettingsError(
            f"{place}: the command for the key must print it, in one line, and nothing else"
        )
    return secret


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The shell and all it started: one of them alone would go on, and hold the pipe open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
