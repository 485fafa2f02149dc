"""A person at a terminal: runs a command in a pty and sees what a screen would show."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyte
from ptyprocess import PtyProcess

DEADLINE_S = 45.0

CTRL_C = "\x03"
CTRL_D = "\x04"
ENTER = "\r"
SHIFT_TAB = "\x1b[Z"


class Terminal:
    """`see` waits until a text is on the screen or in the scrollback."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        columns: int = 80,
        rows: int = 24,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        # The size comes from the terminal; variables would speak of another one.
        left_out = {"NO_COLOR", "COLUMNS", "LINES"}
        env = {name: value for name, value in os.environ.items() if name not in left_out}
        env |= {"TERM": "xterm-256color"} | (environment or {})
        self._process = PtyProcess.spawn(
            list(command), cwd=str(cwd), env=env, dimensions=(rows, columns)
        )
        # Programs ask where the cursor is, and a terminal answers.
        self.screen.write_process_input = self.type

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.isalive():
            self._process.kill(signal.SIGKILL)
        self._process.wait()
        self._process.close()

    def type(self, text: str) -> None:
        self._process.write(text.encode())

    def see(self, text: str, *, times: int = 1) -> None:
        """Waits for the text to be there; fails with what is there instead."""
        deadline = time.monotonic() + DEADLINE_S
        while self.text().count(text) < times:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} was not seen {times} times in:\n{self.text()}")

    def exit_code(self) -> int:
        """Waits for the end of the command."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline - time.monotonic()):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"still running:\n{self.text()}")
        code = self._process.wait()
        assert code is not None
        return int(code)

    def text(self) -> str:
        """Scrollback and screen, as lines without the blanks at their ends."""
        above = [
            "".join(line[x].data for x in range(self.screen.columns)) for line in self._above()
        ]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def _above(self) -> list[dict[int, pyte.screens.Char]]:
        return list(self.screen.history.top)

    def _read(self, timeout_s: float) -> bool:
        """Takes what has come; False at the end of the output or when the time is over."""
        ready, _, _ = select.select([self._process.fd], [], [], max(timeout_s, 0))
        if not ready:
            return False
        try:
            data = self._process.read(65536)
        except EOFError:
            return False
        self.raw += data
        self._stream.feed(data)
        return True
