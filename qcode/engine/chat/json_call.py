"""One call as a JSON object: `{"name": ..., "arguments": {...}}`, the Hermes form."""

from __future__ import annotations

import json
from typing import Literal

from qcode.engine.chat.arguments import OfferedTools
from qcode.engine.chat.json_stream import JsonStream
from qcode.engine.chat.tags import PARTIAL, TOOL_CLOSE, match_tag, usable_name

ReadStatus = Literal["more", "done", "rejected"]
ARGUMENT_KEYS = ("arguments", "parameters")


class JsonCall:
    """Reads from the opening brace inside `<tool_call>`. `name` is set once the call is certain
    to be one. Arguments stream when the name stands before them, as models write it.

    A call whose JSON breaks off into something else after its name keeps the broken text as its
    arguments: the agent's answer to it tells the model what was wrong.
    """

    def __init__(self, tools: OfferedTools) -> None:
        self._tools = tools
        self._pieces: list[str] = []
        self._waiting = ""  # arguments that came before the name
        self._place: Literal["open", "key", "key text", "colon", "value", "broken"] = "open"
        self._stream = JsonStream()
        self._key = ""
        self._has_arguments = False
        self._sent_arguments = False
        self.name: str | None = None
        self.complete_at_end = False

    def take(self) -> str:
        """The argument text settled since the last call."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self._sent_arguments = self._sent_arguments or bool(text)
        return text

    def close(self) -> None:
        """Ends the arguments."""
        if not self._pieces and not self._sent_arguments:
            self._pieces.append("{}")

    def read(self, text: str, *, final: bool) -> tuple[int, ReadStatus]:
        """How many characters of `text` are settled, and how the call stands after them."""
        at = 0
        while True:
            end, status = self._advance(text, at, final)
            if status != "on":
                complete = self.name is not None and self._has_arguments
                self.complete_at_end = final and complete and self._place != "broken"
                return end, status
            at = end

    def _advance(self, text: str, at: int, final: bool) -> tuple[int, ReadStatus | Literal["on"]]:
        if self._place == "broken":
            return self._read_broken(text, at, final)
        if self._place in ("key text", "value"):
            return self._read_stream(text, at, final)
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return at, "more"
        if self._place == "open":
            self._place = "key"
            return at + 1, "on"
        if self._place == "colon":
            return self._read_colon(text, at)
        return self._read_key(text, at)

    def _read_colon(self, text: str, at: int) -> tuple[int, ReadStatus | Literal["on"]]:
        if text[at] != ":":
            return self._damage(at)
        self._stream = JsonStream()
        self._place = "value"
        return at + 1, "on"

    def _read_key(self, text: str, at: int) -> tuple[int, ReadStatus | Literal["on"]]:
        char = text[at]
        if char == "," or (char == "{" and not self._key):
            return at + 1, "on"
        if char in "\"'":
            self._stream = JsonStream()
            self._place = "key text"
            return at, "on"
        if char == "}":
            return at + 1, self._finish()
        closing = match_tag(text, at, TOOL_CLOSE)
        if closing > 0:
            return at, self._finish()
        if closing == PARTIAL:
            return at, "more"
        return self._damage(at)

    def _finish(self) -> ReadStatus:
        if self.name is None:
            return "rejected"
        self.close()
        return "done"

    def _read_stream(
        self, text: str, at: int, final: bool
    ) -> tuple[int, ReadStatus | Literal["on"]]:
        stream = self._stream
        end = stream.read(text, at, final=final)
        takes_arguments = self._place == "value" and self._expects_arguments()
        if takes_arguments and self.name is not None and stream.first == "{":
            self._pieces.append(stream.take())
        if stream.failed:
            return self._damage(end)
        if not stream.done:
            return end, "more"
        if self._place == "key text":
            self._key = str(json.loads(stream.take()))
            self._place = "colon"
            return end, "on"
        self._place = "key"
        if takes_arguments:
            self._has_arguments = True
            self._settle(stream)
        elif self._key == "name" and self.name is None and not self._find_name(stream.take()):
            return end, "rejected"
        return end, "on"

    def _expects_arguments(self) -> bool:
        return self._key in ARGUMENT_KEYS and not self._has_arguments

    def _find_name(self, value: str) -> bool:
        written = json.loads(value)
        if not isinstance(written, str) or not usable_name(written):
            return False
        written = written.strip(" \t\"'`")
        self.name = self._tools.find(written) or written
        if self._waiting:
            self._pieces.append(self._waiting)
        return True

    def _settle(self, stream: JsonStream) -> None:
        """Arguments that did not stream: before the name, or not written as an object."""
        if stream.first == "{" and self.name is not None:
            return
        settled = unwrap_arguments(stream.take())
        if self.name is None:
            self._waiting = settled
        else:
            self._pieces.append(settled)

    def _damage(self, at: int) -> tuple[int, ReadStatus | Literal["on"]]:
        if self.name is None:
            return at, "rejected"
        self._place = "broken"
        return at, "on"

    def _read_broken(
        self, text: str, at: int, final: bool
    ) -> tuple[int, ReadStatus | Literal["on"]]:
        start = at
        while (at := text.find("<", at)) >= 0:
            closing = match_tag(text, at, TOOL_CLOSE)
            if closing > 0 or (closing == PARTIAL and not final):
                self._keep_broken(text[start:at])
                if closing > 0:
                    self.close()
                return at, "done" if closing > 0 else "more"
            at += 1
        self._keep_broken(text[start:])
        return len(text), "more"

    def _keep_broken(self, text: str) -> None:
        if not self._has_arguments:
            self._pieces.append(text)


def unwrap_arguments(written: str) -> str:
    """Arguments written as a string of JSON, or as null, in the form they should have had.

    `written` is strict JSON; what cannot be an object is returned as it is."""
    value = json.loads(written)
    if value is None:
        return "{}"
    if not isinstance(value, str):
        return written
    if not value.strip():
        return "{}"
    inner = JsonStream()
    end = inner.read(value, 0, final=True)
    is_object = inner.done and inner.first == "{" and not value[end:].strip()
    return inner.take() if is_object else written
