"""An HTTP/1.1 response, from the bytes of its connection as they come, by llhttp (RFC 9112)."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_BARE_BYTES = 64 << 10
"""That many may come without anything of the body among them: a head, a trailer, extensions of
chunks. llhttp has no limit of its own."""


class BadResponse(ValueError):
    """Bytes that are no HTTP/1.1 response, or not all of one."""


class IncomingResponse:
    """Once `has_head`, `status` and `headers` say what they say: names are in small letters, values
    of the same name are joined by commas. `done` once all of the body has been fed. `may_stay` then
    says whether the connection can carry another response.

    What is named `on_` is called by the parser."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        # RFC 9112, 2.2: a line may end so.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self._parts: list[bytes] = []
        self._bare_bytes = 0
        self._ends_with_connection = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = False
        self.done = False
        self.may_stay = False

    def feed(self, data: bytes) -> bytes:
        """What of the body is in the next bytes of the connection, of which nothing is its end. All
        chunks come out joined: servers send one for each token. Raises BadResponse."""
        if not data:
            self._end()
            return b""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.done:  # else it is about what follows the response
                raise BadResponse(str(error)) from error
            self.may_stay = False
        if self.has_head and self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise BadResponse("the response has a transfer encoding that was not asked for")
        piece = b"".join(self._parts)
        self._parts.clear()
        self._bare_bytes = 0 if piece else self._bare_bytes + len(data)
        if self._bare_bytes > MAX_BARE_BYTES:
            raise BadResponse("the head or the end of the response is longer than 64 KiB")
        return piece

    def _end(self) -> None:
        if not self.has_head:
            raise BadResponse("the server hung up without an answer")
        if not self.done and not self._ends_with_connection:
            raise BadResponse("the server hung up in the middle of its answer")
        self.done = True
        self.may_stay = False

    def on_message_begin(self) -> None:
        if self.done:  # more came than was asked for
            self.may_stay = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:  # a trailer says nothing here
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.has_head:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # it only says that the answer will come
            self.headers.clear()
            return
        self.has_head = True
        self.may_stay = self._parser.should_keep_alive()
        self._ends_with_connection = not self.headers.keys() & {
            "content-length",
            "transfer-encoding",
        }

    def on_body(self, body: bytes) -> None:
        if not self.done:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self.done = self.has_head
