"""HTTP to a model endpoint: timers, limits and failures. Nothing else sends requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import TypeVar

from qcode.backends.base_url import is_loopback, normalise_base_url, without_secrets
from qcode.backends.chosen_transport import choose_transport, proxies_are_set
from qcode.backends.retry import MAX_RETRY_AFTER_S, Failure
from qcode.backends.server_events import (
    ACCEPTED_ENCODINGS,
    MAX_RESPONSE_BYTES,
    EventReader,
    Undecodable,
    body_pieces,
    json_object,
)
from qcode.backends.transport import (
    HungUp,
    ProxyFailed,
    Request,
    Response,
    Transport,
    TransportError,
    Unsendable,
    UnusableProxy,
    merged,
)
from qcode.protocol.errors import BackendError, BackendUnavailable, InvalidResponse, SettingsError
from qcode.protocol.values import dataclass
from qcode.wire.openai_errors import error_from_payload

MAX_ERROR_BYTES = 64 << 10
_MAX_MALFORMED = 3
_END_WAIT_S = 0.25
_MAX_SAID = 300
_MIN_SECRET = 6  # shorter header values are words, and would be struck out of every message
_USER_AGENT = "qcode"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Seconds. `first_token_s` runs from the request to the first output of the model, `idle_s`
    from one event to the next after it; comments that keep a connection alive are no events, and
    an event without output does not end the wait for the first. There is no limit on how long an
    answer takes as long as it goes on, but for `total_s`."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 1800.0


LOCAL_TIMERS = Timers(first_token_s=300.0, idle_s=300.0)
"""A server on this machine may read a long prompt for minutes, and hold a call back for as long
until it is written whole."""


class RequestFailed(Exception):
    """One try went wrong: what to tell the user, and what the retry policy needs to know."""

    def __init__(self, failure: Failure, error: BackendError) -> None:
        super().__init__(error.message)
        self.failure = failure
        self.error = error


class ChatEndpoint:
    """One base URL, `.../v1`. The key and the values of `headers` are sent to it alone and appear
    in no message."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timers: Timers | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.url = normalise_base_url(base_url)
        if api_key is not None:
            api_key = _sendable("the API key", api_key)
        headers = {
            name: _sendable(f"the header {name}", value) for name, value in (headers or {}).items()
        }
        self.is_local = is_loopback(self.url)
        self._secrets = [value for value in headers.values() if len(value) >= _MIN_SECRET]
        if api_key:
            self._secrets.append(api_key)
        self._timers = timers or (LOCAL_TIMERS if self.is_local else Timers())
        sent = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": ACCEPTED_ENCODINGS}
        if (authorization := self.url.authorization(api_key)) is not None:
            sent["Authorization"] = authorization
        self._headers = merged(sent, headers)
        try:
            self._transport = transport or choose_transport(
                self.url, connect_s=self._timers.connect_s
            )
        except UnusableProxy as error:
            raise SettingsError(
                f"The proxy set for this machine cannot be used: {self.redact(str(error))}",
                f"Check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or add {self.url.host} to NO_PROXY.",
            ) from error

    @property
    def shown_url(self) -> str:
        return without_secrets(self.url)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def get_json(self, path: str) -> object:
        """What the server answers at a path below the base URL, or below its root if `path`
        begins with a slash. Raises RequestFailed."""
        return await self._json(self._request("GET", path))

    async def post_json(self, path: str, body: Mapping[str, object]) -> object:
        """As `get_json`."""
        return await self._json(self._request("POST", path, body))

    async def _json(self, request: Request) -> object:
        response = await self._send(request, time.monotonic() + self._timers.idle_s)
        try:
            return await self._read_json(response, MAX_RESPONSE_BYTES)
        finally:
            await response.aclose()

    async def post_events(
        self,
        path: str,
        body: Mapping[str, object] | bytes,
        *,
        has_output: Callable[[Mapping[str, object]], bool] = bool,
    ) -> AsyncGenerator[dict[str, object] | None, None]:
        """Posts JSON, written already or not; yields that of each event, None for the event that
        ends the stream. A server that does not stream gives its whole answer as one event.
        `has_output` tells the events that end the wait for the first token. Raises
        RequestFailed."""
        start = time.monotonic()
        request = self._request("POST", path, body)
        response = await self._send(request, start + self._timers.first_token_s)
        try:
            if "json" in response.headers.get("content-type", ""):
                payload = await self._read_json(response, MAX_RESPONSE_BYTES)
                if not isinstance(payload, dict):
                    raise self._broken("answered with something that is not a completion")
                yield payload
                yield None
                return
            if "html" in response.headers.get("content-type", ""):
                raise self._final("answered with a web page")
            async with aclosing(self._events(response, has_output, start)) as events:
                async for event in events:
                    yield event
        finally:
            await response.aclose()

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | bytes | None = None
    ) -> Request:
        below = "" if path.startswith("/") else self.url.path.rstrip("/") + "/"
        url = self.url.at(below + path)
        if body is None:
            return Request(method=method, url=url, headers=self._headers)
        if not isinstance(body, bytes):
            body = json.dumps(dict(body), separators=(",", ":")).encode()
        headers = merged({"Content-Type": "application/json"}, self._headers)
        return Request(method=method, url=url, headers=headers, body=body)

    async def _send(self, request: Request, deadline: float) -> Response:
        try:
            response = await _until(deadline, self._transport.send(request))
        except TimeoutError as error:
            raise self._broken("did not begin to answer in time") from error
        except (TransportError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        if 200 <= response.status < 300:
            return response
        try:
            raise await self._refused(response)
        finally:
            await response.aclose()

    async def _events(
        self,
        response: Response,
        has_output: Callable[[Mapping[str, object]], bool],
        start: float,
    ) -> AsyncGenerator[dict[str, object] | None, None]:
        malformed = 0
        begun = False
        deadline = start + self._timers.first_token_s
        end = start + self._timers.total_s
        reader = EventReader()
        async with aclosing(body_pieces(response)) as pieces:
            piece: bytes | None = b""
            while piece is not None:
                piece = await self._next_piece(pieces, deadline, end)
                for data in self._decode(reader, piece):
                    if data == "[DONE]":
                        await _read_end(pieces)
                        yield None
                        return
                    event = json_object(data)
                    malformed = 0 if event is not None else malformed + 1
                    if malformed == _MAX_MALFORMED:
                        raise self._broken("sent events that are not JSON")
                    if event is None:
                        continue
                    begun = begun or has_output(event)
                    if begun:
                        deadline = time.monotonic() + self._timers.idle_s
                    yield event

    def _decode(self, reader: EventReader, piece: bytes | None) -> Iterator[str]:
        try:
            # A last event may lack the empty line that should end it.
            yield from reader.feed(b"\n\n" if piece is None else piece)
        except ValueError as error:
            raise self._final(str(error)) from error

    async def _next_piece(
        self, pieces: AsyncIterator[bytes], deadline: float, end: float
    ) -> bytes | None:
        try:
            return await _until(min(deadline, end), anext(pieces, None))
        except TimeoutError as error:
            if time.monotonic() >= end:
                minutes = f"{self._timers.total_s / 60:.0f} minutes"
                raise self._final(f"was still answering after {minutes}", hint="") from error
            raise self._broken("stopped sending") from error
        except TransportError as error:
            raise self._broken("broke off its answer") from error
        except Undecodable as error:
            raise self._broken("sent an answer that cannot be decompressed") from error

    async def _read_json(self, response: Response, limit: int) -> object:
        text = await self._read_text(response, limit)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._final("answered with something that is not JSON") from error

    async def _read_text(self, response: Response, limit: int) -> str:
        """No more than `limit` bytes of it, and one piece."""
        parts = bytearray()
        end = time.monotonic() + self._timers.total_s
        async with aclosing(body_pieces(response)) as pieces:
            while True:
                deadline = time.monotonic() + self._timers.first_token_s
                piece = await self._next_piece(pieces, deadline, end)
                if piece is None or len(parts) > limit:
                    return parts.decode("utf-8", errors="replace")
                parts += piece

    # Failures

    async def _refused(self, response: Response) -> RequestFailed:
        """The error of a status that is not success, in words short enough to show."""
        status = response.status
        retry_after_s = read_retry_after(response.headers, time.time())
        failure = Failure(kind="status", status=status, retry_after_s=retry_after_s)
        try:
            text = await self._read_text(response, MAX_ERROR_BYTES)
        except RequestFailed:
            text = ""
        payload: object = json_object(text) or {"error": text.strip()}
        error = error_from_payload(payload, status=status, retry_after_s=retry_after_s)
        said = self.redact(error.message)
        error.message = f"{self.shown_url} answered {status}: {said}"
        error.args = (error.message,)
        error.hint = _status_hint(status, error, retry_after_s)
        return RequestFailed(failure, error)

    def redact(self, text: str) -> str:
        """What a server said, on one short line and without the secrets, should it echo them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _MAX_SAID else text[: _MAX_SAID - 1] + "…"

    def _unreachable(self, error: Exception) -> RequestFailed:
        if _caused_by(error, ssl.SSLError):
            message = f"no secure connection to {self.shown_url}: {self.redact(str(error))}"
            hint = "check the URL's scheme and the certificate"
            return RequestFailed(Failure(kind="final"), BackendUnavailable(message, hint))
        if isinstance(error, Unsendable):
            return self._final("cannot be asked: " + self.redact(str(error)))
        message = f"nothing answers at {self.shown_url}: is the server running?"
        hint = "start it, or set another --base-url"
        if isinstance(error, HungUp):
            message, hint = f"{self.shown_url} closed the connection unanswered", ""
        elif isinstance(error, ProxyFailed):
            message = f"the proxy did not lead to {self.shown_url}: {self.redact(str(error))}"
            hint = "check HTTPS_PROXY and NO_PROXY"
        elif _caused_by(error, socket.gaierror):
            message = f"the name {self.url.host} of {self.shown_url} cannot be resolved"
            hint = "check its spelling, and the network"
        elif not self.is_local and proxies_are_set():
            hint = "check the URL, and the proxy: HTTPS_PROXY and NO_PROXY"
        return RequestFailed(Failure(kind="connect"), BackendUnavailable(message, hint))

    def _broken(self, what: str) -> RequestFailed:
        message = f"{self.shown_url} {what}"
        return RequestFailed(Failure(kind="broken"), BackendUnavailable(message))

    def _final(
        self,
        what: str,
        hint: str = "check that the base URL is that of an OpenAI-compatible server",
    ) -> RequestFailed:
        message = f"{self.shown_url} {what}"
        return RequestFailed(Failure(kind="final"), InvalidResponse(message, hint))


def _sendable(what: str, value: str) -> str:
    """The value as a header may carry it, without the line end it was read with. Raises
    SettingsError, which does not show it."""
    value = value.strip()
    if value.isascii() and value.isprintable():
        return value
    raise SettingsError(
        f"{what[0].upper()}{what[1:]} holds a line break or another character that cannot be sent.",
        "Set it anew: one line of plain ASCII.",
    )


async def _until(deadline: float, awaitable: Awaitable[_T]) -> _T:
    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
        return await awaitable


_WAITING = (ssl.SSLWantReadError, ssl.SSLWantWriteError)  # of a handshake that only took long


async def _read_end(pieces: AsyncIterator[bytes]) -> None:
    """Takes note that nothing follows the last event: only then is the connection used again. A
    server that leaves it open is not waited for."""
    end = time.monotonic() + _END_WAIT_S
    with contextlib.suppress(TimeoutError, TransportError, Undecodable):
        while await _until(end, anext(pieces, None)) is not None:
            pass


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind) and not isinstance(seen, _WAITING):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _status_hint(status: int, error: BackendError, retry_after_s: float | None) -> str:
    if retry_after_s is not None and retry_after_s > MAX_RETRY_AFTER_S:
        return f"the server asks to wait {retry_after_s / 60:.0f} minutes: try again then"
    if status in (401, 403):
        return "check the API key"
    if status == 404:
        return "check the model's name and the base URL, which usually ends in /v1"
    if 300 <= status < 400:
        return "the server redirects elsewhere: use the final address as the base URL"
    return error.hint


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks to wait, from either header it may use. `now` is Unix time."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            return max(0.0, float(text) * scale)
        except ValueError:
            pass
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, TypeError):
        return None
