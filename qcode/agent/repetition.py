"""Noticing a model that goes round in circles: in its calls, and inside one answer.

Thresholds after the reference on peers: nudge, then refuse, then stop; a call counts only while
its result stays the same and nothing it could depend on was changed.
"""

from __future__ import annotations

import hashlib
import json

from qcode.protocol.messages import ToolCall
from qcode.protocol.tools import ToolResult

NUDGE_AT = 3
REFUSE_AT = 5
STOP_AT = 8


class RepetitionGuard:
    """Counts, for each call, how often in a row it gave the same result."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._results: dict[str, str] = {}
        self._changing: set[str] = set()

    def refusal(self, call: ToolCall) -> str | None:
        """Why this call is not run again, or None. A refusal counts as one more repetition."""
        key = _key(call)
        count = self._counts.get(key, 0)
        if count < REFUSE_AT - 1:
            return None
        self._counts[key] = count + 1
        return (
            f"Not run: this exact call has already given the same result {count} times. "
            "Do something different, or finish and say what is in the way."
        )

    def observe(self, call: ToolCall, result: ToolResult) -> str | None:
        """Counts a result; returns a remark for the model when the same came too often."""
        key = _key(call)
        digest = hashlib.sha256(result.content.encode("utf-8", "replace")).hexdigest()
        if self._results.get(key) == digest:
            self._counts[key] += 1
        else:
            self._counts[key] = 1
            self._results[key] = digest
        if result.changed_files:
            self._changing.add(key)
            self._forget_dependants()
        if self._counts[key] < NUDGE_AT:
            return None
        return (
            f"Note: this exact call has given this same result {self._counts[key]} times. "
            "Repeating it will not help; try something else."
        )

    def stopped(self, call: ToolCall) -> bool:
        return self._counts.get(_key(call), 0) >= STOP_AT

    def _forget_dependants(self) -> None:
        """After a change of files, looking or testing again is no repetition. Changes themselves
        still count, so that an edit done and undone in turn is seen."""
        for key in [key for key in self._counts if key not in self._changing]:
            del self._counts[key]
            del self._results[key]


def _key(call: ToolCall) -> str:
    try:
        arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
    except ValueError:
        arguments = call.arguments
    return f"{call.name} {arguments}"


_CHECK_EVERY = 200
_WINDOWS = ((1_000, 80), (2_400, 200))  # (characters looked at, longest period in them)


class EndlessText:
    """Notices text that has become one short piece repeated without end (at least 12 times and
    1,000 characters, which no table or rule in a sane answer reaches). With `patience` it has to
    be that many times as long: what is written to a file may repeat itself for a while."""

    def __init__(self, *, patience: int = 1) -> None:
        self._windows = tuple((size * patience, longest) for size, longest in _WINDOWS)
        self._check_every = _CHECK_EVERY * patience
        self._tail = ""
        self._unchecked = 0

    def feed(self, text: str) -> bool:
        """True once the text so far ends in an endless repetition."""
        self._tail = (self._tail + text)[-self._windows[-1][0] :]
        self._unchecked += len(text)
        if self._unchecked < self._check_every:
            return False
        self._unchecked = 0
        return any(
            len(self._tail) >= size and _repeats(self._tail[-size:], longest)
            for size, longest in self._windows
        )


def _repeats(text: str, longest: int) -> bool:
    """Whether text[i] == text[i + p] everywhere for some p up to `longest`: then what stands
    before the last `longest` characters stands p further on as well, which is quick to look for."""
    beginning = text[: len(text) - longest]
    period = text.find(beginning, 1)
    while period != -1:
        if text.startswith(text[period:]):
            return True
        period = text.find(beginning, period + 1)
    return False
