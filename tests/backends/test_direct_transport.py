"""The way to a server without a proxy, against servers of bytes on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from qcode.backends.base_url import normalise_base_url
from qcode.backends.direct_transport import DirectTransport
from qcode.backends.transport import HungUp, Request, TransportError, Unsendable

pytestmark = pytest.mark.anyio

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port where `serve` gets each connection, which is closed behind it. Ends when all have."""
    conversations: list[asyncio.Future[None]] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.get_running_loop().create_future()
        conversations.append(ended)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            ended.set_result(None)

    async with await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*conversations)


class ByteServer:
    """Gives each request, head and body, to `answer`, which closes the connection if it likes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.num_connections = 0
        self.hung_up = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ByteServer]:
        async with listening(self._serve) as port:
            self.url = f"http://127.0.0.1:{port}/v1/x?y=1"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or b"0"))
                self.requests.append(head + body)
                await self._answer(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()


def saying(*pieces: bytes, close: bool = False) -> Answer:
    """Each piece is sent by itself."""

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return answer


class Client:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.transport = DirectTransport(connect_s=5.0, tls=tls)

    async def ask(
        self, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        response = await self.transport.send(
            Request(
                method="GET" if body is None else "POST",
                url=normalise_base_url(url),
                headers=headers or {},
                body=body or b"",
            )
        )
        async with aclosing(response), aclosing(response.pieces()) as pieces:
            return response.status, b"".join([piece async for piece in pieces])


@asynccontextmanager
async def client(answer: Answer) -> AsyncIterator[tuple[Client, ByteServer]]:
    async with ByteServer(answer).serving() as server:
        http = Client()
        async with aclosing(http.transport):
            yield http, server


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def test_a_request_says_what_was_asked() -> None:
    async with client(saying(SIZED)) as (http, server):
        answer = await http.ask(server.url, b'{"a":1}', {"X-Key": "k", "host": "other"})
    assert answer == (200, b"hello")
    [request] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    assert first == b"POST /v1/x?y=1 HTTP/1.1"
    assert b"X-Key: k" in fields
    assert [field for field in fields if field.lower().startswith(b"host:")] == [b"host: other"]
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    "pieces",
    [
        (SIZED[:20], SIZED[20:-2], SIZED[-2:]),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + SIZED),
        (
            b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n",
            b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
    ],
)
async def test_an_answer_is_read_however_it_comes(pieces: tuple[bytes, ...]) -> None:
    async with client(saying(*pieces)) as (http, server):
        assert await http.ask(server.url) == (200, b"hello")
        assert await http.ask(server.url) == (200, b"hello")
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhello", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello", False),
        (SIZED + b"HTTP/1.1 200 OK\r\n", False),
        (SIZED, True),
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_not(answer: bytes, close: bool) -> None:
    async with client(saying(answer, close=close)) as (http, server):
        for _ in range(2):
            assert await http.ask(server.url) == (200, b"hello")
            if close:  # its end has come by now
                port = normalise_base_url(server.url).port
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ((), HungUp),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), HungUp),
        ((b"HTTP/1.1 200 OK\r\n",), HungUp),
        ((SIZED[:-1],), HungUp),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), HungUp),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",),
            HungUp,
        ),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",),
            HungUp,
        ),
    ],
)
async def test_an_answer_that_is_none_is_an_error(
    pieces: tuple[bytes, ...], error: type[Exception]
) -> None:
    async with client(saying(*pieces, close=True)) as (http, server):
        with pytest.raises(error):
            await http.ask(server.url)


async def test_a_refusal_is_read_while_the_request_is_still_being_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        while await reader.read(1 << 20):
            pass

    async with listening(serve) as port:
        url = f"http://127.0.0.1:{port}/"
        http = Client()
        async with aclosing(http.transport):
            status, _ = await http.ask(url, b"x" * (8 << 20))
    assert status == 413


async def test_giving_up_hangs_up() -> None:
    silent = asyncio.Event()

    async def begin(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SIZED[:-2])
        silent.set()

    async with client(begin) as (http, server):
        asking = asyncio.create_task(http.ask(server.url))
        await silent.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.hung_up.wait()


async def test_nothing_that_listens_is_a_failed_connection() -> None:
    async with ByteServer(saying(SIZED)).serving() as server:
        url = server.url
    with pytest.raises(TransportError) as failed:
        await Client().ask(url)
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)


async def test_a_header_cannot_bring_another_one_along() -> None:
    async with client(saying(SIZED)) as (http, server):
        with pytest.raises(Unsendable):
            await http.ask(server.url, headers={"X-Key": "a\r\nX-Other: b"})
    assert server.requests == []


async def test_encryption_is_asked_for_by_the_scheme() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"not encrypted at all")

    async with listening(serve) as port:
        url = f"https://127.0.0.1:{port}/"
        with pytest.raises(TransportError) as failed:
            await Client(ssl.create_default_context()).ask(url)
    assert isinstance(failed.value.__cause__, ssl.SSLError)


async def test_an_encrypted_answer_is_read_and_its_connection_used_again() -> None:
    certificate = Path(__file__).with_name("untrusted.pem")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False  # it is another's
    num_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(SIZED)

    async with listening(serve, serving) as port:
        http = Client(trusting)
        async with aclosing(http.transport):
            for _ in range(3):
                assert await http.ask(f"https://127.0.0.1:{port}/") == (200, b"hello")
    assert num_connections == 1
