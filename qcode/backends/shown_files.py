"""Files that a conversation shows with line numbers, as an answer would repeat them.

An edit writes lines of a file again, without their numbers, and inside JSON with their quotes and
line ends escaped. Such text is not in the prompt token by token, so it is offered to the engine as
something to guess the next tokens from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.messages import Message, ToolMessage

_SHOWN_LINES = re.compile(r"(?:^ {0,5}\d+\t.*(?:\n|\Z)){2,}", re.MULTILINE)
_NUMBER = re.compile(r"^ {0,5}\d+\t", re.MULTILINE)

MAX_CHARS = 200_000
"""Of the most recently shown: more would take longer to encode than it saves."""


def shown_files(messages: Iterable[Message], form: CallFormat | None) -> list[str]:
    """The texts, the latest last. `form` is how arguments of calls are written."""
    texts: list[str] = []
    room = MAX_CHARS
    for message in reversed(list(messages)):
        if not isinstance(message, ToolMessage) or message.is_error:
            continue
        for shown in reversed(_SHOWN_LINES.findall(message.content)):
            text = _NUMBER.sub("", shown)
            room -= len(text)
            if room < 0:
                return texts[::-1]
            texts.append(json.dumps(text, ensure_ascii=False)[1:-1] if form == "json" else text)
    return texts[::-1]
