"""Calls as JSON without tags: at a line's start, in a code fence, or listed in one block.

JSON in an answer is seldom a call, so all of it is held back until it has shown to be one, and it
counts only if it names an offered tool and holds nothing but a call.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from qcode.engine.chat.arguments import OfferedTools, dump
from qcode.engine.chat.json_call import ARGUMENT_KEYS, unwrap_arguments
from qcode.engine.chat.json_stream import JsonStream

_CALL_KEYS = {"name", "id", "type", *ARGUMENT_KEYS}
_CALL_START = re.compile(r"\[?(?:\{|$)")
_FIRST_KEY = re.compile(r'\[?\{"(?P<key>[^"\\]*)"(?:: "(?P<name>(?:[^"\\]|\\.)*)")?', re.DOTALL)


class BareCalls:
    """Reads one JSON value. Once done, `calls` holds names and arguments."""

    def __init__(self, tools: OfferedTools) -> None:
        self._tools = tools
        self._json = JsonStream()
        self._judged = False  # the first key did not rule out a call
        self.calls: tuple[tuple[str, str], ...] = ()

    def read(self, text: str, *, final: bool) -> tuple[int, Literal["more", "done", "rejected"]]:
        """How many characters of `text` are read, and how the value stands after them."""
        end = self._json.read(text, 0, final=final)
        if self._json.failed or not self._plausible():
            return end, "rejected"
        if not self._json.done:
            return end, "rejected" if final else "more"
        value = json.loads(self._json.take())
        items = value if isinstance(value, list) else [value]
        calls = [self._call(item) for item in items]
        self.calls = tuple(call for call in calls if call is not None)
        return end, "done" if calls and len(self.calls) == len(calls) else "rejected"

    def _plausible(self) -> bool:
        """Whether what was read so far can still be a call: most JSON shows early that it is
        none, and need not be held back to its end."""
        if self._judged:
            return True
        written = self._json.written()
        first = _FIRST_KEY.match(written)
        if first is None:
            return not written or bool(_CALL_START.match(written))
        name = first["name"]
        self._judged = name is not None or first["key"] != "name"
        if name is not None and first["key"] == "name":
            return self._tools.find(name.strip()) is not None
        return first["key"] in _CALL_KEYS

    def _call(self, value: object) -> tuple[str, str] | None:
        if not isinstance(value, dict) or not value.keys() <= _CALL_KEYS:
            return None
        name = value.get("name")
        known = self._tools.find(name.strip()) if isinstance(name, str) else None
        keys = [key for key in ARGUMENT_KEYS if key in value]
        if known is None or len(keys) != 1:
            return None
        arguments = value[keys[0]]
        if isinstance(arguments, dict) and arguments.keys() >= {"type", "properties"}:
            return None  # the tool's own description, recited
        return known, unwrap_arguments(dump(arguments))
