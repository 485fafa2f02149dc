"""What is typed while nobody reads waits for the next prompt, unseen and unchanged.

In a terminal's ordinary mode such keys are echoed into the output and Enter turns into Ctrl+J,
which would start a new line in the prompt instead of sending it.
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

_INPUT_FLAGS, _LOCAL_FLAGS = 0, 3  # places in termios' attribute list


class TerminalKeys:
    """The keyboard mode of this process's terminal. Signals by Ctrl-C stay as they are."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before = None if self._descriptor is None else termios.tcgetattr(self._descriptor)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, keys that nobody reads are kept for the next prompt."""
        if self._descriptor is None:
            yield
            return
        attributes = termios.tcgetattr(self._descriptor)
        attributes[_INPUT_FLAGS] &= ~termios.ICRNL
        attributes[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, attributes)
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """As it was when this object was made; for a way out that unwinds nothing, too."""
        if self._descriptor is not None and self._before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
