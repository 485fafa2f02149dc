"""A server on a real loopback socket that fails in exactly the way it is told.

    async with FaultServer(reset, respond(b"...")) as server:
        ... base_url = server.url ...

Each connection gets the next behaviour and then the last one again; `num_connections` counts them.
It runs on the test's own loop, so nothing sleeps: a behaviour that hangs does so until the client
hangs up or the server is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ANSWER = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "whole"}}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


class FaultServer:
    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = list(behaviours)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> FaultServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behaviour = self._behaviours[min(self.num_connections, len(self._behaviours) - 1)]
        self.num_connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(behaviour, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, behaviour: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Any:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return json.loads(await reader.readexactly(length)) if length else None


async def until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


# Behaviours


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A TCP reset instead of an answer."""
    await read_request(reader)
    _reset(writer)


async def close_unanswered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def answer_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What an HTTP server says to bytes that are no request, as those of TLS."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def hang_before_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await until_gone(reader)


def respond(
    *parts: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "text/event-stream",
    length: int | None = None,
    then: Behaviour | None = None,
) -> Behaviour:
    """An answer that ends with its connection, or after `then`. `length` promises so many bytes."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        sent = {"Content-Type": content_type, "Connection": "close", **(headers or {})}
        if length is not None:
            sent["Content-Length"] = str(length)
        lines = [f"HTTP/1.1 {status} Status", *(f"{k}: {v}" for k, v in sent.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is not None:
            await then(reader, writer)

    return behave


async def then_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    _reset(writer)


async def then_hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await until_gone(reader)


def then_comments(event: asyncio.Event) -> Behaviour:
    """Keeps the connection alive and says nothing, until `event` is set or the client is gone."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not event.is_set() and not reader.at_eof():
            writer.write(b": still there\n\n")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.01)

    return behave


def refuse(
    status: int, error: object = "no", *, headers: Mapping[str, str] | None = None
) -> Behaviour:
    body = json.dumps({"error": error}).encode()
    return respond(body, status=status, headers=headers, content_type="application/json")


def gzip_bomb(num_bytes: int) -> Behaviour:
    """A small answer that expands to so many bytes, without a line end."""
    packed = gzip.compress(b"data: " + bytes(num_bytes), compresslevel=9)
    return respond(packed, headers={"Content-Encoding": "gzip"}, length=len(packed))


whole = respond(ANSWER)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closing with this option on, and no time to linger, sends a reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
