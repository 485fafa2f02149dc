"""The way to a server through the proxy that is set for this machine, by httpx."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager

from qcode.backends.lean_httpx import httpx
from qcode.backends.transport import (
    HungUp,
    ProxyFailed,
    Request,
    TransportError,
    Unsendable,
    UnusableProxy,
)


class ProxiedTransport:
    """Whether the proxy is asked for a host, NO_PROXY says. Raises UnusableProxy."""

    def __init__(self, *, connect_s: float, tls: ssl.SSLContext) -> None:
        try:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=connect_s),
                follow_redirects=False,
                verify=tls,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UnusableProxy(str(error)) from error

    async def send(self, request: Request) -> _ProxiedResponse:
        asked = self._client.build_request(
            request.method,
            str(request.url),
            content=request.body or None,
            headers=dict(request.headers),
        )
        with _told_apart():
            return _ProxiedResponse(await self._client.send(asked, stream=True))

    async def aclose(self) -> None:
        await self._client.aclose()


class _ProxiedResponse:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = dict(response.headers.items())

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        with _told_apart():
            async for piece in self._response.aiter_raw():
                yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except httpx.ProxyError as error:
        raise ProxyFailed(str(error)) from error
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
        raise Unsendable(str(error)) from error
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
        raise HungUp(str(error)) from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise TransportError(str(error)) from error
