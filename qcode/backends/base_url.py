"""Base URLs as people write them."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from qcode.protocol.errors import SettingsError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._~-]*[a-z0-9_.])?")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrl:
    """As text it is without its credentials. `host` is ASCII, an IPv6 address without brackets;
    `path` and `query` are quoted, `credentials`, as `user:password`, are not."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    query: str = ""
    credentials: str = ""

    @property
    def authority(self) -> str:
        """Host and port, as in the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """What is asked for at the host."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def authorization(self, key: str | None) -> str | None:
        """The header by that name. Credentials in the URL come before a key."""
        if self.credentials:
            return "Basic " + base64.b64encode(self.credentials.encode()).decode()
        return f"Bearer {key}" if key else None

    def at(self, path: str) -> ServerUrl:
        return replace(self, path=path)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def normalise_base_url(text: str) -> ServerUrl:
    """The URL that `chat/completions` is appended to. A bare host gets `/v1`, and a scheme:
    http on this machine, https elsewhere. Raises SettingsError."""
    text = text.strip()
    if "://" not in text:
        host = text.partition("/")[0].rpartition(":")
        scheme = "http" if _is_loopback_host((host[0] or host[2]).strip("[]")) else "https"
        text = f"{scheme}://{text}"
    try:
        return _parsed(text)
    except ValueError as error:
        raise SettingsError(
            f"{without_user(text)!r} is not the base URL of a server: {error}",
            "Write it as http://HOST:PORT/v1.",
        ) from None


def without_user(text: str) -> str:
    """Text that was meant as a URL, without what may be a password or a key in it: a password can
    hold any character, so that the parts cannot be told by a parser."""
    return re.sub(r"://.*@", "://***@", text, flags=re.DOTALL).partition("?")[0]


def _parsed(text: str) -> ServerUrl:
    """Raises ValueError."""
    if not text.isprintable():
        raise ValueError("it holds a character that cannot be shown")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # whose words may quote a password
        raise ValueError("its host or port cannot be read") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("its scheme is neither http nor https")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return ServerUrl(
        scheme="http" if parts.scheme == "http" else "https",
        host=_ascii_host(parts.hostname or ""),
        port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=quote(path, safe=_KEPT_IN_PATH) or "/v1",
        query=quote(parts.query, safe=_KEPT_IN_QUERY),
        credentials="" if credentials == ":" else credentials,
    )


def _ascii_host(host: str) -> str:
    if ":" in host:
        return str(ipaddress.ip_address(host))
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("it names no host")
    return host


def without_secrets(url: ServerUrl) -> str:
    """The URL as it may be shown and stored."""
    return str(replace(url, query=""))


def is_loopback(url: ServerUrl) -> bool:
    return _is_loopback_host(url.host)


def _is_loopback_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
