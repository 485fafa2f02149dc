"""Bytes of a response -> the data of its server-sent events, within limits."""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from qcode.backends.transport import Response

MAX_RESPONSE_BYTES = 64 << 20
MAX_LINE_CHARACTERS = 1 << 20
_PIECE_BYTES = 64 << 10
_GZIP = 16 + zlib.MAX_WBITS
ACCEPTED_ENCODINGS = "gzip"


class EventReader:
    """Bytes in any pieces -> the data of whole events (WHATWG HTML, "server-sent events"; names,
    ids and retry times of events are not used here). Raises ValueError past the limits."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._data: list[str] = []
        self._line = ""
        self._after_return = False
        self._num_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        self._num_bytes += len(chunk)
        if self._num_bytes > MAX_RESPONSE_BYTES:
            raise ValueError("sent more than 64 MiB")
        text = self._decoder.decode(chunk)
        if self._after_return and text.startswith("\n"):
            text = text[1:]  # the second half of a line end that was split
        if text:
            self._after_return = text.endswith("\r")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines[:-1]:
            self._take_line(self._line + line)
            if not (self._line or line) and self._data:
                yield "\n".join(self._data)
                self._data.clear()
            self._line = ""
        self._line += lines[-1]
        if len(self._line) > MAX_LINE_CHARACTERS:
            raise ValueError("sent a line of more than 1 MiB")

    def _take_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))


class Undecodable(ValueError):
    """A body in an encoding that was not asked for, or damaged."""


async def body_pieces(response: Response) -> AsyncGenerator[bytes, None]:
    """The body, decompressed in pieces of at most 64 KiB each: a small response may stand for a
    huge one, and must not be expanded before its size can be judged. Raises TransportError,
    Undecodable."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Undecodable(f"content encoding {encoding!r} was not asked for")
    packed = encoding != "identity"
    inflater = zlib.decompressobj(_GZIP)
    async with aclosing(response.pieces()) as parts:
        async for part in parts:
            if not packed:
                yield part
                continue
            while part:
                try:
                    piece = inflater.decompress(part, _PIECE_BYTES)
                except zlib.error as error:
                    raise Undecodable(str(error)) from error
                part = inflater.unconsumed_tail
                if piece:
                    yield piece


def json_object(text: str) -> dict[str, object] | None:
    """None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
