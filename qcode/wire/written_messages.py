"""A conversation's messages as JSON text, each written once.

A conversation is sent again with every request, a little longer each time. Writing all of it anew
would make a turn the slower the longer the conversation is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from qcode.protocol.messages import Message
from qcode.wire.openai_request import Dialect, JsonObject, encode_message


@dataclass(frozen=True, slots=True)
class _Written:
    message: Message
    fields: JsonObject
    text: bytes


class WrittenMessages:
    """Remembers the messages of the last request, by identity: they are immutable. Conversations
    that take turns with one of these are written anew each time, no worse.

    `num_written` counts the messages that had to be written.
    """

    def __init__(self) -> None:
        self._dialect = Dialect()
        self._written: dict[int, _Written] = {}
        self._texts: dict[int, bytes] = {}  # by the identity of the fields, which `_written` holds
        self.num_written = 0

    def encode(self, messages: Sequence[Message], dialect: Dialect) -> list[JsonObject]:
        """What `encode_request` takes as its `messages`; not to be changed."""
        earlier = self._written if dialect == self._dialect else {}
        self._dialect = dialect
        self._written = {
            id(message): earlier.get(id(message)) or self._write(message, dialect)
            for message in messages
        }
        self._texts = {id(each.fields): each.text for each in self._written.values()}
        return [self._written[id(message)].fields for message in messages]

    def _write(self, message: Message, dialect: Dialect) -> _Written:
        self.num_written += 1
        fields = encode_message(message, dialect)
        return _Written(message, fields, _json(fields))

    def request(self, body: JsonObject) -> bytes:
        """The JSON of a request."""
        listed = body.get("messages")
        if not isinstance(listed, list):
            return _json(body)
        # Quotes within strings are escaped, so what is found is the field itself. It stands before
        # all that the user may have added.
        before, _, after = _json({**body, "messages": []}).partition(b'"messages":[]')
        texts = b",".join([self._text(fields) for fields in listed])
        return b"".join((before, b'"messages":[', texts, b"]", after))

    def num_bytes(self, body: JsonObject) -> int:
        """How long the prompt is, template aside."""
        listed = body.get("messages")
        num_bytes = len(_json(body.get("tools")))
        if isinstance(listed, list):
            num_bytes += sum(len(self._text(fields)) for fields in listed)
        return num_bytes

    def _text(self, fields: object) -> bytes:
        text = self._texts.get(id(fields))
        return _json(fields) if text is None else text


def _json(value: object) -> bytes:
    """Half characters, which UTF-8 cannot say, become question marks."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")
