"""A request and its answer, and what may go wrong on the way, whatever carries them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from qcode.backends.base_url import ServerUrl
from qcode.protocol.values import dataclass


class TransportError(Exception):
    """No answer, or not all of it."""


class HungUp(TransportError):
    """The server was there, and said nothing more or nothing that is HTTP."""


class Unsendable(TransportError):
    """The request cannot be put into HTTP."""


class ProxyFailed(TransportError):
    """The proxy did not lead to the server."""


class UnusableProxy(Exception):
    """What is set as a proxy is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`headers` are complete but for those that say how long the body is."""

    method: str
    url: ServerUrl
    headers: Mapping[str, str]
    body: bytes = b""


def merged(usual: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Headers with others that stand before them, however their names are written."""
    taken = {name.lower() for name in own}
    return {name: value for name, value in usual.items() if name.lower() not in taken} | dict(own)


class Response(Protocol):
    """`headers` have their names in small letters."""

    status: int
    headers: Mapping[str, str]

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it came, once. Raises TransportError."""
        ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    async def send(self, request: Request) -> Response:
        """Returns with the head of the answer, however long that takes. Raises TransportError."""
        ...

    async def aclose(self) -> None: ...
