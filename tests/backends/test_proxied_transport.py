"""The way through a proxy: a server on loopback that takes requests for any host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qcode.backends.http import ChatEndpoint, RequestFailed
from qcode.protocol.errors import BackendUnavailable

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def proxy(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[bytes]]:
    heads: list[bytes] = []
    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()
        await writer.wait_closed()
        end.set()

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        yield heads
        for end in ended:
            await end.wait()


async def test_a_server_elsewhere_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    async with proxy(answer, monkeypatch) as heads:
        endpoint = ChatEndpoint("http://model.invalid/v1", api_key="sk-key")
        assert await endpoint.get_json("models") == {}
        await endpoint.aclose()
    [head] = heads
    assert head.startswith(b"GET http://model.invalid/v1/models HTTP/1.1\r\n")
    assert b"bearer sk-key" in head.lower()


async def test_a_proxy_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy(b"", monkeypatch):
        endpoint = ChatEndpoint("http://model.invalid/v1")
        with pytest.raises(RequestFailed) as failed:
            await endpoint.get_json("models")
        await endpoint.aclose()
    assert isinstance(failed.value.error, BackendUnavailable)
    assert "http://model.invalid/v1" in failed.value.error.message


async def test_a_host_that_is_excepted_is_not_asked_for_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy(b"", monkeypatch) as heads:
        monkeypatch.setenv("NO_PROXY", "model.invalid")
        endpoint = ChatEndpoint("http://model.invalid/v1")
        with pytest.raises(RequestFailed, match="resolved"):
            await endpoint.get_json("models")
        await endpoint.aclose()
    assert heads == []
