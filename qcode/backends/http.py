"""HTTP to a model endpoint: limits, timers and server-sent events. Nothing else imports httpx."""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx

from qcode.backends.retry import Failure
from qcode.protocol.errors import BackendError, BackendUnavailable, InvalidResponse
from qcode.wire.openai_errors import error_from_payload

MAX_RESPONSE_BYTES = 64 << 20
MAX_LINE_CHARACTERS = 1 << 20
MAX_ERROR_BYTES = 64 << 10
_MAX_MALFORMED = 3
_MAX_SAID = 300
_USER_AGENT = "qcode"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Seconds. `first_token_s` runs from the request to the first data of its answer, `idle_s`
    from one piece of data to the next; comments that keep a connection alive are not data."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 1800.0


LOCAL_TIMERS = Timers(first_token_s=300.0)
"""A server on this machine may read a long prompt for minutes."""


class RequestFailed(Exception):
    """One try went wrong: what to tell the user, and what the retry policy needs to know."""

    def __init__(self, failure: Failure, error: BackendError) -> None:
        super().__init__(error.message)
        self.failure = failure
        self.error = error


class ChatEndpoint:
    """One base URL, `.../v1`. The key is sent to it alone and appears in no message."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timers: Timers | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = normalise_base_url(base_url)
        self._key = api_key or ""
        loopback = is_loopback(self._url)
        self._timers = timers or (LOCAL_TIMERS if loopback else Timers())
        sent = {"User-Agent": _USER_AGENT}
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        sent.update(headers or {})
        self._client = httpx.AsyncClient(
            headers=sent,
            timeout=httpx.Timeout(None, connect=self._timers.connect_s),
            trust_env=not loopback,  # a proxy has no business between us and this machine
            follow_redirects=False,
            transport=transport,
        )

    @property
    def shown_url(self) -> str:
        """The URL without what may be secret in it."""
        return str(self._url.copy_with(username=None, password=None, query=None))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get_json(self, path: str) -> object:
        """Raises RequestFailed."""
        request = self._client.build_request("GET", self._at(path))
        response = await self._send(request, time.monotonic() + self._timers.idle_s)
        try:
            return await self._read_json(response, MAX_RESPONSE_BYTES)
        finally:
            await response.aclose()

    async def post_events(
        self, path: str, body: Mapping[str, object]
    ) -> AsyncGenerator[dict[str, object] | None, None]:
        """The JSON of each event; None for the event that ends the stream. A server that does not
        stream gives its whole answer as one event. Raises RequestFailed."""
        start = time.monotonic()
        first_token = start + self._timers.first_token_s
        request = self._client.build_request("POST", self._at(path), json=dict(body))
        response = await self._send(request, first_token)
        try:
            if "json" in response.headers.get("content-type", ""):
                payload = await self._read_json(response, MAX_RESPONSE_BYTES)
                if not isinstance(payload, dict):
                    raise self._broken("answered with something that is not a completion")
                yield payload
                yield None
                return
            async with aclosing(self._events(response, first_token, start)) as events:
                async for event in events:
                    yield event
        finally:
            await response.aclose()

    def _at(self, path: str) -> httpx.URL:
        return self._url.copy_with(path=f"{self._url.path.rstrip('/')}/{path}")

    async def _send(self, request: httpx.Request, deadline: float) -> httpx.Response:
        try:
            response = await _until(deadline, self._client.send(request, stream=True))
        except TimeoutError as error:
            raise self._broken("did not begin to answer in time") from error
        except (httpx.TransportError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        if response.is_success:
            return response
        try:
            raise await self._refused(response)
        finally:
            await response.aclose()

    async def _events(
        self, response: httpx.Response, deadline: float, start: float
    ) -> AsyncGenerator[dict[str, object] | None, None]:
        malformed = 0
        end = start + self._timers.total_s
        events = _EventReader()
        async with aclosing(_chunks(response)) as chunks:
            chunk: bytes | None = b""
            while chunk is not None:
                chunk = await self._next_chunk(chunks, min(deadline, end))
                for data in self._decode(events, chunk):
                    deadline = time.monotonic() + self._timers.idle_s
                    if data == "[DONE]":
                        yield None
                        return
                    event = _json_object(data)
                    malformed = 0 if event is not None else malformed + 1
                    if malformed == _MAX_MALFORMED:
                        raise self._broken("sent events that are not JSON")
                    if event is not None:
                        yield event

    def _decode(self, events: _EventReader, chunk: bytes | None) -> Iterator[str]:
        try:
            # A last event may lack the empty line that should end it.
            yield from events.feed(b"\n\n" if chunk is None else chunk)
        except ValueError as error:
            raise self._final(str(error)) from error

    async def _next_chunk(self, chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
        try:
            return await _until(deadline, anext(chunks, None))
        except TimeoutError as error:
            raise self._broken("stopped sending") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._broken("broke off its answer") from error
        except httpx.DecodingError as error:
            raise self._broken("sent an answer that cannot be decompressed") from error

    async def _read_json(self, response: httpx.Response, limit: int) -> object:
        text = await self._read_text(response, limit)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._final("answered with something that is not JSON") from error

    async def _read_text(self, response: httpx.Response, limit: int) -> str:
        parts = bytearray()
        async with aclosing(_chunks(response)) as chunks:
            while True:
                deadline = time.monotonic() + self._timers.first_token_s
                chunk = await self._next_chunk(chunks, deadline)
                if chunk is None or len(parts) > limit:
                    return parts.decode("utf-8", errors="replace")
                parts += chunk

    # Failures

    async def _refused(self, response: httpx.Response) -> RequestFailed:
        """The error of a status that is not success, in words short enough to show."""
        status = response.status_code
        retry_after_s = read_retry_after(response.headers, time.time())
        failure = Failure(kind="status", status=status, retry_after_s=retry_after_s)
        try:
            text = await self._read_text(response, MAX_ERROR_BYTES)
        except RequestFailed:
            text = ""
        payload: object = _json_object(text) or {"error": text.strip()}
        error = error_from_payload(payload, status=status, retry_after_s=retry_after_s)
        said = self.redact(error.message)
        error.message = f"{self.shown_url} answered {status}: {said}"
        error.args = (error.message,)
        error.hint = _status_hint(status, error)
        return RequestFailed(failure, error)

    def redact(self, text: str) -> str:
        """What a server said, on one short line and without the key, should it echo it."""
        if self._key:
            text = text.replace(self._key, "***")
        text = " ".join(text.split())
        return text if len(text) <= _MAX_SAID else text[: _MAX_SAID - 1] + "…"

    def _unreachable(self, error: Exception) -> RequestFailed:
        if _has_cause(error, ssl.SSLError):
            return RequestFailed(
                Failure(kind="final"),
                BackendUnavailable(
                    f"no secure connection to {self.shown_url}: {self.redact(str(error))}",
                    "check the URL's scheme and the certificate",
                ),
            )
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return self._final("cannot be asked: " + self.redact(str(error)))
        if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
            closed = BackendUnavailable(f"{self.shown_url} closed the connection unanswered")
            return RequestFailed(Failure(kind="connect"), closed)
        message = f"nothing answers at {self.shown_url}: is the server running?"
        hint = "start it, or set another --base-url"
        return RequestFailed(Failure(kind="connect"), BackendUnavailable(message, hint))

    def _broken(self, what: str) -> RequestFailed:
        message = f"{self.shown_url} {what}"
        return RequestFailed(Failure(kind="broken"), BackendUnavailable(message))

    def _final(self, what: str) -> RequestFailed:
        message = f"{self.shown_url} {what}"
        hint = "check that the base URL is that of an OpenAI-compatible server"
        return RequestFailed(Failure(kind="final"), InvalidResponse(message, hint))


class _EventReader:
    """Bytes in any pieces -> the data of whole events (WHATWG HTML, "server-sent events"; names,
    ids and retry times of events are not used here). Raises ValueError past the limits."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._data: list[str] = []
        self._line = ""
        self._after_return = False
        self._num_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        self._num_bytes += len(chunk)
        if self._num_bytes > MAX_RESPONSE_BYTES:
            raise ValueError("sent more than 64 MiB")
        text = self._decoder.decode(chunk)
        if self._after_return and text.startswith("\n"):
            text = text[1:]  # the second half of a line end that was split
        if text:
            self._after_return = text.endswith("\r")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines[:-1]:
            self._take_line(self._line + line)
            if not (self._line or line) and self._data:
                yield "\n".join(self._data)
                self._data.clear()
            self._line = ""
        self._line += lines[-1]
        if len(self._line) > MAX_LINE_CHARACTERS:
            raise ValueError("sent a line of more than 1 MiB")

    def _take_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_bytes():
        yield chunk


async def _until(deadline: float, awaitable: Awaitable[_T]) -> _T:
    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
        return await awaitable


def _json_object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _status_hint(status: int, error: BackendError) -> str:
    if status in (401, 403):
        return "check the API key"
    if status == 404:
        return "check the model's name and the base URL, which usually ends in /v1"
    if 300 <= status < 400:
        return "the server redirects elsewhere: use the final address as the base URL"
    return error.hint


def normalise_base_url(text: str) -> httpx.URL:
    """The URL that `chat/completions` is appended to. A bare host gets `/v1`, and a scheme:
    http on this machine, https elsewhere. Raises InvalidResponse."""
    text = text.strip()
    if "://" not in text:
        host = text.partition("/")[0].rpartition(":")
        scheme = "http" if _is_loopback_host((host[0] or host[2]).strip("[]")) else "https"
        text = f"{scheme}://{text}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidResponse(f"{text!r} is not a base URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidResponse(f"{text!r} is not the base URL of a server")
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    return url.copy_with(path=path or "/v1", fragment=None)


def is_loopback(url: httpx.URL) -> bool:
    return _is_loopback_host(url.host)


def _is_loopback_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks to wait, from either header it may use. `now` is Unix time."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            return max(0.0, float(text) * scale)
        except ValueError:
            pass
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, TypeError):
        return None
