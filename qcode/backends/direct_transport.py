"""HTTP/1.1 from this machine straight to a server.

A client library knows far more than a model endpoint needs: loading httpx took a sixth of the time
to the first request, and its reading of an answer that comes a token a chunk a third of the time of
that answer. Here httptools parses what comes, in C. Where a proxy is set, httpx is used.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncGenerator, Mapping

from qcode.backends.base_url import ServerUrl
from qcode.backends.http_response import BadResponse, IncomingResponse
from qcode.backends.transport import HungUp, Request, TransportError, Unsendable, merged

_PIECE_BYTES = 64 << 10
_KEPT_S = 5.0
"""How long an unused connection is kept: many servers close theirs about then."""
_HAPPY_EYEBALLS_S = 0.25  # RFC 8305
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_IN_VALUE = re.compile(r"[\0\r\n]|[^\0-\xff]")


class DirectTransport:
    """Connections to one origin, used again one after the other. `tls` is for https alone."""

    def __init__(self, *, connect_s: float, tls: ssl.SSLContext | None) -> None:
        self._connect_s = connect_s
        self._tls = tls
        self._unused: list[_Connection] = []

    async def send(self, request: Request) -> _DirectResponse:
        """Raises TransportError."""
        head = _request_head(request)
        connection = self._take_unused() or await self._connect(request.url)
        answer = IncomingResponse()
        try:
            await connection.send(head + request.body)
            early = b""
            while not answer.has_head:
                early = await connection.read(answer)
        except BaseException:
            connection.abort()
            raise
        return _DirectResponse(answer, early, connection, self._unused)

    async def aclose(self) -> None:
        for connection in self._unused:
            connection.abort()
        self._unused.clear()
        await asyncio.sleep(0)  # until the sockets are closed

    def _take_unused(self) -> _Connection | None:
        while self._unused:
            connection = self._unused.pop()
            if connection.is_usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, url: ServerUrl) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_s):
                reader, writer = await asyncio.open_connection(
                    url.host,
                    url.port,
                    ssl=self._tls if url.scheme == "https" else None,
                    limit=_PIECE_BYTES,
                    happy_eyeballs_delay=_HAPPY_EYEBALLS_S,
                )
        except TimeoutError as error:
            raise TransportError("no connection in time") from error
        except (OSError, UnicodeError) as error:
            raise TransportError(str(error)) from error
        return _Connection(reader, writer)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._used_s = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether nothing has come since its last answer, not even its end."""
        is_open = not (self._reader.at_eof() or self._writer.is_closing())
        return is_open and time.monotonic() - self._used_s < _KEPT_S

    async def send(self, request: bytes) -> None:
        """A server that has hung up meanwhile may have answered first, which reading tells."""
        self._writer.write(request)
        try:
            await self._writer.drain()
        except ConnectionError:
            pass
        except OSError as error:
            raise HungUp(str(error)) from error

    async def read(self, answer: IncomingResponse) -> bytes:
        """What comes next of its body, which may be nothing."""
        try:
            return answer.feed(await self._reader.read(_PIECE_BYTES))
        except (OSError, BadResponse) as error:
            raise HungUp(str(error)) from error

    def rest(self) -> None:
        self._used_s = time.monotonic()

    def abort(self) -> None:
        """At once: the end of an encrypted connection could be waited for in vain."""
        self._writer.transport.abort()


class _DirectResponse:
    """A connection whose answer was read to its end goes back to `unused`."""

    def __init__(
        self,
        answer: IncomingResponse,
        early: bytes,
        connection: _Connection,
        unused: list[_Connection],
    ) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer
        self._early = early  # of the body, read together with the head
        self._connection: _Connection | None = connection
        self._unused = unused

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        early, self._early = self._early, b""
        if early:
            yield early
        while self._connection is not None and not self._answer.done:
            piece = await self._connection.read(self._answer)
            if piece:
                yield piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not (self._answer.done and self._answer.may_stay):
            connection.abort()
            await asyncio.sleep(0)  # until the socket is closed
            return
        connection.rest()
        self._unused.append(connection)


def _request_head(request: Request) -> bytes:
    usual = {"Host": request.url.authority, "Connection": "keep-alive"}
    headers = merged(usual, request.headers)
    if request.method != "GET":
        headers = merged(headers, {"Content-Length": str(len(request.body))})
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _BAD_IN_VALUE.search(value):
            raise Unsendable(f"the header {name!r} cannot be sent")
    lines = [f"{name}: {value}" for name, value in headers.items()]
    first = f"{request.method} {request.url.target} HTTP/1.1"
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")
