"""A Chat Completions server that answers by a script, at once, and notes when it was asked.

It shares no code with the program it measures: standard library only. One connection serves many
requests, as with model servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

MODEL = "scripted"
_READ_LIMIT_BYTES = 1 << 20
_EVENTS_A_DRAIN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request gets: text, an event for each piece, then calls by name and arguments."""

    pieces: Sequence[str] = ()
    calls: Sequence[tuple[str, Mapping[str, object]]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request for an answer, in seconds of `time.monotonic`: when its head was there, and when
    the last byte of its answer had been handed to the network. The `_cpu_s` are what the client
    had computed for by then."""

    asked_s: float
    asked_cpu_s: float
    answered_s: float
    answered_cpu_s: float
    num_bytes: int


class ScriptedServer:
    """Plays `answers` in order; a request past the last one gets status 500. `window` is the
    context window it states. `client_cpu_s` reads how long the client has computed; `on_answer`
    gets the number of each answer, from 1, as it ends."""

    def __init__(
        self,
        answers: Sequence[Answer],
        *,
        window: int,
        client_cpu_s: Callable[[], float] = float,
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        self._answers = [[_chunk(event) for event in _events(answer)] for answer in answers]
        self._window = window
        self._client_cpu_s = client_cpu_s
        self._on_answer = on_answer
        self.num_connections = 0
        self.exchanges: list[Exchange] = []
        self.first_body = b""
        self.last_body = b""
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ScriptedServer]:
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0, limit=_READ_LIMIT_BYTES)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = time.monotonic(), self._client_cpu_s()
                method, path, length = _read_head(head)
                body = await reader.readexactly(length)
                if method == "POST" and path.endswith("/chat/completions"):
                    await self._complete(writer, body, asked)
                elif path.endswith("/models"):
                    listed = {"id": MODEL, "object": "model", "max_model_len": self._window}
                    _send_json(writer, 200, {"object": "list", "data": [listed]})
                else:
                    _send_json(writer, 404, {"error": {"message": f"no route {path}"}})
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has hung up
        finally:
            writer.close()

    async def _complete(
        self, writer: asyncio.StreamWriter, body: bytes, asked: tuple[float, float]
    ) -> None:
        number = len(self.exchanges)
        if number >= len(self._answers):
            _send_json(writer, 500, {"error": {"message": "the script has no answer left"}})
            return
        self.first_body = self.first_body or body
        self.last_body = body
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for position, chunk in enumerate(self._answers[number], 1):
            writer.write(chunk)
            if position % _EVENTS_A_DRAIN == 0:
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.exchanges.append(
            Exchange(
                asked_s=asked[0],
                asked_cpu_s=asked[1],
                answered_s=time.monotonic(),
                answered_cpu_s=self._client_cpu_s(),
                num_bytes=len(body),
            )
        )
        if self._on_answer is not None:
            self._on_answer(number + 1)


def _events(answer: Answer) -> Iterator[bytes]:
    yield _event({"role": "assistant", "content": ""})
    for piece in answer.pieces:
        yield _event({"content": piece})
    for index, (name, arguments) in enumerate(answer.calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        yield _event({"tool_calls": [call]})
    yield _event({}, finish="tool_calls" if answer.calls else "stop")
    # Constant and small, so that no client thinks its window full.
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    yield _data({"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(delta: Mapping[str, object], *, finish: str | None = None) -> bytes:
    return _data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _data(fields: Mapping[str, object]) -> bytes:
    event = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _send_json(writer: asyncio.StreamWriter, status: int, value: object) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def _read_head(head: bytes) -> tuple[str, str, int]:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
    return method, path, int(headers.get("content-length", "0"))
