"""Which way leads to a server: straight, or through the proxy that is set."""

from __future__ import annotations

import functools
import os
import ssl

from qcode.backends.base_url import ServerUrl, is_loopback
from qcode.backends.direct_transport import DirectTransport
from qcode.backends.transport import Transport


def choose_transport(url: ServerUrl, *, connect_s: float) -> Transport:
    """A proxy has no business between us and this machine. Raises UnusableProxy."""
    if is_loopback(url) or not proxies_are_set():
        tls = _certificates() if url.scheme == "https" else None
        return DirectTransport(connect_s=connect_s, tls=tls)
    from qcode.backends.proxied_transport import ProxiedTransport

    return ProxiedTransport(connect_s=connect_s, tls=_certificates())


def proxies_are_set() -> bool:
    import urllib.request

    return bool(urllib.request.getproxies().keys() - {"no"})


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Those of certifi, or those that SSL_CERT_FILE or SSL_CERT_DIR names."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        import certifi

        file = certifi.where()
    context = ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    context.set_alpn_protocols(["http/1.1"])
    return context
