"""A Chat Completions server that follows a script, on a real loopback socket.

    with ChatServer([say("Hello"), refuse(429, retry_after="0.1"), say("", calls=[...])]) as server:
        ... OPENAI_BASE_URL = server.url ...
    server.requests[0].body["messages"]

Each `POST /v1/chat/completions` gets the next answer; one past the end gets status 500. `routes`
holds the JSON that other paths answer with. Faults
are part of an answer: `DROP` closes the connection in the middle, `STALL` sends nothing more.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from qcode.protocol.chunks import Chunk, Completed, TextDelta, ToolCallDelta
from qcode.protocol.messages import AssistantMessage, Block, TextBlock, ToolCall, Usage
from qcode.wire.openai_chat import DONE, StreamEncoder, encode_event

Fault = Literal["drop", "stall"]
DROP: Fault = "drop"
STALL: Fault = "stall"
Part = bytes | Fault


@dataclass(frozen=True)
class Answer:
    """What one request gets. `parts` are sent one by one, each in a write of its own."""

    parts: tuple[Part, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    raw: bytes


def say(
    text: str = "",
    *,
    calls: Sequence[tuple[str, Mapping[str, object]]] = (),
    usage: Usage | None = None,
    done: bool = True,
    fault: Fault | None = None,
) -> Answer:
    """A whole answer: `calls` are names and arguments. With a `fault` it stops before its end."""
    encoder = StreamEncoder(id="chatcmpl-1", model="test-model", created=1)
    events = [encoder.start()]
    for chunk in chunks_of(text, calls, usage or Usage(input_tokens=10, output_tokens=5)):
        if not (fault and isinstance(chunk, Completed)):
            events.extend(encoder.encode(chunk))
    parts: list[Part] = [encode_event(event) for event in events]
    if fault:
        parts.append(fault)
    elif done:
        parts.append(encode_event(DONE))
    return Answer(parts=tuple(parts))


def chunks_of(
    text: str, calls: Sequence[tuple[str, Mapping[str, object]]], usage: Usage
) -> list[Chunk]:
    chunks: list[Chunk] = [TextDelta(text=text[at : at + 5]) for at in range(0, len(text), 5)]
    blocks: list[Block] = [TextBlock(text=text)] if text else []
    for index, (name, arguments) in enumerate(calls):
        call = ToolCall(id=f"call_{index}", name=name, arguments=json.dumps(arguments))
        blocks.append(call)
        chunks.append(ToolCallDelta(index=index, call_id=call.id, name=name))
        chunks.append(ToolCallDelta(index=index, call_id=call.id, arguments=call.arguments))
    message = AssistantMessage(
        blocks=tuple(blocks),
        stop_reason="tool_calls" if calls else "end",
        model="test-model",
        usage=usage,
    )
    return [*chunks, Completed(message=message)]


def send(*parts: Part | str) -> Answer:
    """Exactly these bytes and faults as an event stream; text is sent as UTF-8."""
    return Answer(parts=tuple(part.encode() if _is_text(part) else part for part in parts))


def _is_text(part: Part | str) -> bool:
    return isinstance(part, str) and part not in (DROP, STALL)


def refuse(
    status: int,
    message: str = "no",
    *,
    code: str | None = None,
    retry_after: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    sent = dict(headers or {})
    if retry_after is not None:
        sent["Retry-After"] = retry_after
    body = json.dumps({"error": error}).encode()
    return Answer(parts=(body,), status=status, headers=sent, content_type="application/json")


class ChatServer:
    """Runs in a thread of its own from entering the `with` block to leaving it."""

    def __init__(
        self,
        answers: Sequence[Answer],
        *,
        models: Sequence[Mapping[str, object]] = (),
        routes: Mapping[str, object] | None = None,
        port: int = 0,
    ) -> None:
        self._answers = list(answers)
        self._routes = dict(routes or {})
        self._models = list(models) or [{"id": "test-model", "object": "model"}]
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="chat-server", daemon=True)
        self.requests: list[Received] = []
        self.disconnects = 0
        self.port = port
        self._failure: OSError | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._converse(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        try:
            server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        except OSError as error:  # the port is taken
            self._failure = error
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request: the answer says that the connection closes."""
        try:
            received = await _read_request(reader)
            if received is not None:
                self.requests.append(received)
                await self._answer(received, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.disconnects += 1
        finally:
            writer.close()

    async def _answer(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answer = self._next_answer(received)
        writer.write(_head(answer))
        for part in answer.parts:
            if part == DROP:
                await writer.drain()
                writer.transport.abort()
                return
            if part == STALL:
                await self._stall(reader)
                return
            assert isinstance(part, bytes)
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _stall(self, reader: asyncio.StreamReader) -> None:
        """Silence until the client hangs up or the server stops."""
        gone = self._loop.create_task(reader.read(1))
        stopped = self._loop.create_task(self._stopping.wait())
        done, pending = await asyncio.wait({gone, stopped}, return_when="FIRST_COMPLETED")
        self.disconnects += gone in done
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, *done, return_exceptions=True)

    def _next_answer(self, received: Received) -> Answer:
        if received.path in self._routes:
            found = json.dumps(self._routes[received.path]).encode()
            return Answer(parts=(found,), content_type="application/json")
        if received.path.endswith("/v1/models") and not received.path.startswith("/api/"):
            listed = json.dumps({"object": "list", "data": self._models}).encode()
            return Answer(parts=(listed,), content_type="application/json")
        if not received.path.endswith("/chat/completions"):
            return refuse(404, f"no route {received.path}")
        if not self._answers:
            return refuse(500, "the script has no answer left")
        return self._answers.pop(0)


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, json.loads(body) if body else {}, body)


def _head(answer: Answer) -> bytes:
    headers = {
        "Content-Type": answer.content_type,
        "Transfer-Encoding": "chunked",
        "Connection": "close",
        **answer.headers,
    }
    lines = [f"HTTP/1.1 {answer.status} Status"]
    lines.extend(f"{name}: {value}" for name, value in headers.items())
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
