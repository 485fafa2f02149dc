"""A run told on stderr: one line for each thing done, and on a terminal one live line below."""

from __future__ import annotations

import difflib
import os
import shutil
import time
from collections.abc import Callable
from typing import TextIO

from qcode.protocol.chunks import (
    PrefillProgress,
    ReasoningDelta,
    Retrying,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.errors import QcodeError
from qcode.protocol.events import (
    ContextCompacted,
    DraftDelta,
    Event,
    MessageAdded,
    Notice,
    StepStarted,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnFinished,
)
from qcode.protocol.messages import AssistantMessage
from qcode.protocol.tools import DiffDisplay
from qcode.sandbox.terminal_text import printable

_LIVE_EVERY_S = 0.1
# Where no line can be drawn over, a slow model still gives a sign of life.
_PLAIN_EVERY_S = 15.0


class Progress:
    """Writes to `stream`; a stream that cannot be written to any more is left alone."""

    def __init__(
        self, stream: TextIO, *, live: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream: TextIO | None = stream
        self._live = live and os.environ.get("TERM") != "dumb"
        self._live_shown = False
        self._clock = clock
        self._began = clock()
        self._last_live_s = float("-inf") if self._live else self._began
        self._num_deltas = 0

    def show(self, event: Event) -> None:
        match event:
            case StepStarted():
                self.live_line("asking the model")
            case PrefillProgress():
                self.live_line(
                    f"reading the prompt: {event.done_tokens:,} of {event.total_tokens:,} tokens"
                )
            case TextDelta() | ReasoningDelta() | ToolCallDelta() | DraftDelta():
                self._num_deltas += 1
                kind = "thinking" if isinstance(event, ReasoningDelta) else "writing"
                self.live_line(f"{kind}: {self._num_deltas:,}")
            case MessageAdded():
                self._num_deltas = 0
                message = event.message
                if isinstance(message, AssistantMessage) and message.tool_calls:
                    self.line(message.text.strip())
            case ToolStarted():
                self.line(f"• {event.title}")
            case ToolProgress():
                self.live_line("  " + (event.text.strip().splitlines() or [""])[-1])
            case ToolFinished():
                self.line(_outcome(event))
            case Retrying():
                self.line(f"trying again {waiting_time(event.wait_s)}: {event.reason}")
            case ContextCompacted():
                self.line(
                    f"conversation shortened from {event.before_tokens:,} to "
                    f"{event.after_tokens:,} tokens"
                )
            case Notice():
                self.line(f"warning: {event.text}" if event.level == "warning" else event.text)
            case TurnFinished():
                self._finished(event)
            case _:
                pass

    def line(self, text: str) -> None:
        """Shows text that stays; empty text shows nothing."""
        self.clear_live()
        if text:
            self._write(printable(text) + "\n")

    def error(self, error: QcodeError) -> None:
        self.line(error_text(error))

    def clear_live(self) -> None:
        if self._live_shown:
            self._write("\r\x1b[K")
            self._live_shown = False

    def live_line(self, text: str) -> None:
        """Shows what goes on at the moment; the next line takes its place."""
        now = self._clock()
        if now - self._last_live_s < (_LIVE_EVERY_S if self._live else _PLAIN_EVERY_S):
            return
        self._last_live_s = now
        if not self._live:
            self.line(text)
            return
        width = shutil.get_terminal_size().columns - 1
        self._write("\r\x1b[K" + printable(text).replace("\n", " ").replace("\t", " ")[:width])
        self._live_shown = True

    def _finished(self, event: TurnFinished) -> None:
        if event.error is not None:
            self.error(event.error)
        elif event.reason == "cancelled":
            self.line("interrupted; the session keeps the work so far")
        elif event.verify_exit_code not in (None, 0):
            self.line(f"error: the verify command still fails (exit {event.verify_exit_code})")
        usage = event.usage
        steps = "1 step" if event.num_steps == 1 else f"{event.num_steps} steps"
        self.line(
            f"{steps}, {self._clock() - self._began:.1f} s, {usage.input_tokens:,} tokens read "
            f"({usage.cached_tokens:,} from cache), {usage.output_tokens:,} written"
        )

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def waiting_time(wait_s: float) -> str:
    """How long until something happens, without a "0 s"."""
    return f"in {wait_s:.0f} s" if wait_s >= 1 else "at once"


def error_text(error: QcodeError) -> str:
    """An error for the user: what happened, then what to do."""
    text = f"error: {error.message}"
    return f"{text}\nhint: {error.hint}" if error.hint else text


def _outcome(event: ToolFinished) -> str:
    """One line about a finished call, or nothing where its start said it all."""
    result = event.result
    if result.is_error:
        first = (result.content.strip().splitlines() or ["failed"])[0]
        return f"  {event.title}: {first}"
    if isinstance(result.display, DiffDisplay):
        added, removed = changed_lines(result.display)
        return f"  {result.display.path}: +{added} -{removed}"
    if result.exit_code:
        return f"  exit {result.exit_code}"
    return ""


def changed_lines(diff: DiffDisplay) -> tuple[int, int]:
    """How many lines a change adds and removes."""
    old, new = (diff.old_text or "").splitlines(), diff.new_text.splitlines()
    # Not `ndiff`: it looks for likenesses inside lines, which takes minutes for a large change.
    matcher = difflib.SequenceMatcher(None, old, new)
    same = sum(block.size for block in matcher.get_matching_blocks())
    return len(new) - same, len(old) - same
