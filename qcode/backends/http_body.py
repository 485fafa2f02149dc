"""The head and the body of an HTTP/1.1 response, read from bytes as they come (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from qcode.protocol.values import dataclass

MAX_HEAD_BYTES = 64 << 10
_MAX_LINE_BYTES = 4096
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\0\r\n]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r\n]*?)[ \t]*")
_FIRST_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NEXT_CHUNK = re.compile(rb"\r?\n" + _FIRST_CHUNK.pattern)  # after the end of the one before


class BadResponse(ValueError):
    """Bytes that are no HTTP/1.1 response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """Names of `headers` are in small letters; values of the same name are joined by commas."""

    status: int
    minor_version: int
    headers: Mapping[str, str]

    def values(self, name: str) -> list[str]:
        """Those of a header that is a list, in small letters."""
        found = self.headers.get(name)
        return [] if found is None else [part.strip().lower() for part in found.split(",")]


def take_head(buffer: bytes) -> tuple[ResponseHead, bytes] | None:
    """The head and what comes after it; None while its end is not there. Raises BadResponse."""
    end = _HEAD_END.search(buffer)
    if (len(buffer) if end is None else end.start()) > MAX_HEAD_BYTES:
        raise BadResponse("the head of the response is longer than 64 KiB")
    if end is None:
        return None
    first, *lines = re.split(rb"\r?\n", buffer[: end.start()])
    status = _STATUS_LINE.fullmatch(first)
    found = [_FIELD.fullmatch(line) for line in lines]
    if status is None or None in found:
        raise BadResponse("the head of the response is malformed")
    headers: dict[str, str] = {}
    for field in found:
        assert field is not None
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    head = ResponseHead(status=int(status[2]), minor_version=int(status[1]), headers=headers)
    return head, buffer[end.end() :]


class Body(Protocol):
    """`done` once all of it has been fed, `overrun` where more came than belongs to it. `may_end`
    says whether the connection may end before it is done."""

    done: bool
    overrun: bool
    may_end: bool

    def feed(self, data: bytes) -> bytes:
        """What of the body is in the next bytes of the connection. Raises BadResponse."""
        ...


def body_of(head: ResponseHead) -> Body:
    """Raises BadResponse where the length of the body is in doubt."""
    codings = head.values("transfer-encoding")
    if head.status in (204, 304):
        return SizedBody(0)
    if codings:
        if codings != ["chunked"]:
            raise BadResponse("the response has a transfer encoding that was not asked for")
        return ChunkedBody()
    sizes = set(head.values("content-length"))
    if not sizes:
        return UnsizedBody()
    size = sizes.pop()
    if sizes or not size.isdigit() or len(size) > 15:
        raise BadResponse("the length of the response is malformed")
    return SizedBody(int(size))


class SizedBody:
    may_end = False

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self.done = num_bytes == 0
        self.overrun = False

    def feed(self, data: bytes) -> bytes:
        piece = data[: self._left]
        self._left -= len(piece)
        self.done = self._left == 0
        self.overrun = len(piece) < len(data)
        return piece


class UnsizedBody:
    """It ends with the connection."""

    may_end = True

    def __init__(self) -> None:
        self.done = False
        self.overrun = False

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedBody:
    """All chunks that are in a piece come out joined: servers send a chunk for each token."""

    may_end = False

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a line
        self._left = 0  # bytes of the chunk we are in
        self._begins = _FIRST_CHUNK
        self._in_trailer = False
        self.done = False
        self.overrun = False

    def feed(self, data: bytes) -> bytes:
        buffer = self._rest + data
        parts: list[bytes] = []
        at = 0
        while not self._in_trailer:
            if self._left:
                part = buffer[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
            head = self._begins.match(buffer, at)
            if head is None:
                break
            self._begins = _NEXT_CHUNK
            at = head.end()
            self._left = int(head[1], 16)
            self._in_trailer = not self._left
        self._rest = buffer[at:]
        if self._in_trailer:
            self._read_trailer()
        elif len(self._rest) > _MAX_LINE_BYTES or _is_no_head(self._rest):
            raise BadResponse("a chunk of the response is malformed")
        return b"".join(parts)

    def _read_trailer(self) -> None:
        """Fields after the last chunk say nothing here."""
        while not self.done:
            line, newline, rest = self._rest.partition(b"\n")
            if len(line) > _MAX_LINE_BYTES:
                raise BadResponse("the end of the response is malformed")
            if not newline:
                return
            self._rest = rest
            self.done = line in (b"", b"\r")
        self.overrun = bool(self._rest)


def _is_no_head(rest: bytes) -> bool:
    """Whether no chunk can begin so, whatever follows."""
    return b"\n" in rest.removeprefix(b"\r").removeprefix(b"\n")
