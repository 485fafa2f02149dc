"""Base URLs as people write them."""

from __future__ import annotations

import ipaddress

from qcode.backends.lean_httpx import httpx
from qcode.protocol.errors import SettingsError


def normalise_base_url(text: str) -> httpx.URL:
    """The URL that `chat/completions` is appended to. A bare host gets `/v1`, and a scheme:
    http on this machine, https elsewhere. Raises SettingsError."""
    text = text.strip()
    if "://" not in text:
        host = text.partition("/")[0].rpartition(":")
        scheme = "http" if _is_loopback_host((host[0] or host[2]).strip("[]")) else "https"
        text = f"{scheme}://{text}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise SettingsError(
            f"{text!r} is not a base URL: {error}", "Write it as http://HOST:PORT/v1."
        ) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(
            f"{text!r} is not the base URL of a server", "Write it as http://HOST:PORT/v1."
        )
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    return url.copy_with(path=path or "/v1", fragment=None)


def without_secrets(url: httpx.URL) -> str:
    """The URL as it may be shown and stored."""
    return str(url.copy_with(username=None, password=None, query=None))


def is_loopback(url: httpx.URL) -> bool:
    return _is_loopback_host(url.host)


def _is_loopback_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
