"""Ctrl-C and the signals that end a program: the first cancels, a hurried second leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

_HURRY_S = 2.0
_GRACE_S = 0.5
# An end in order takes two seconds where a command must be killed; what takes longer hangs.
_ORDERLY_S = 4.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Set up inside the running program's main task. `number` is the signal that came, if any."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._cancel_turn: Callable[[], None] | None = None
        self._received_s = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._receive, number)

    def cancels(self, cancel_turn: Callable[[], None] | None) -> None:
        """From now on there is a turn to cancel. Before this, and again with None, a signal leaves
        at once."""
        self._cancel_turn = cancel_turn

    def _receive(self, number: int) -> None:
        hurried = self._loop.time() - self._received_s < _HURRY_S
        self._received_s = self._loop.time()
        self.number = number
        if self._cancel_turn is None or hurried:
            self._leave(number)
        else:
            self._loop.call_later(_ORDERLY_S, self._leave, number)
            self._cancel_turn()

    def _leave(self, number: int) -> None:
        """Unwinds the main task; a thread that cannot be interrupted (a model being loaded) must
        not keep the program, so the process ends in any case."""
        if self._main is not None:
            self._main.cancel()
        end = threading.Timer(_GRACE_S, os._exit, (128 + number,))
        end.daemon = True  # it must not hold up the end it is there to bring
        end.start()
