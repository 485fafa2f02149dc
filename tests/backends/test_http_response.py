"""HTTP/1.1 responses, however the network cuts them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.backends.http_response import BadResponse, IncomingResponse

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
PLACES = st.lists(st.integers(0, 1000), max_size=12)


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """In pieces none of which is empty: that would be the end of the connection."""
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


def fed(*pieces: bytes) -> tuple[IncomingResponse, bytes]:
    response = IncomingResponse()
    return response, b"".join([response.feed(piece) for piece in pieces])


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";a=b", b";name"]),
    trailer=st.sampled_from([b"", b"Digest: x\r\n"]),
    at=PLACES,
)
def test_chunks_come_out_whole_however_they_are_cut(
    chunks: list[bytes], extension: bytes, trailer: bytes, at: list[int]
) -> None:
    sent = CHUNKED + b"".join(b"%x%s\r\n%s\r\n" % (len(c), extension, c) for c in chunks)
    response, body = fed(*cut(sent + b"0\r\n" + trailer + b"\r\n", at))
    assert body == b"".join(chunks)
    assert response.headers == {"transfer-encoding": "chunked"}
    assert (response.done, response.may_stay) == (True, True)


def test_all_chunks_of_a_piece_come_out_as_one() -> None:
    response, _ = fed(CHUNKED)
    assert response.feed(b"1\r\na\r\n2\r\nbc\r\n3\r\nd") == b"abcd"
    assert response.feed(b"ef\r\n0\r\n\r\n") == b"ef"


@given(data=st.binary(max_size=200), at=PLACES)
def test_any_bytes_are_a_response_or_are_refused(data: bytes, at: list[int]) -> None:
    for begun in (b"", CHUNKED):
        response = IncomingResponse()
        try:
            for piece in cut(begun + data, at):
                response.feed(piece)
            response.feed(b"")
        except BadResponse:
            continue
        assert response.done
        assert not response.may_stay


@given(at=st.integers(0, 200))
def test_a_head_is_taken_once_it_is_there(at: int) -> None:
    whole = b"HTTP/1.1 404 Not Found\r\nX: a,  B \r\nEmpty:\r\nx: c\r\nNone: \r\n\r\nbody"
    end = whole.index(b"body")
    response, body = fed(*cut(whole, [at]))
    assert response.status == 404
    assert response.headers == {"x": "a,  B, c", "empty": "", "none": ""}
    assert body == b"body"
    response, body = fed(*cut(whole[:at], []))
    assert response.has_head == (at >= end)
    assert body == whole[end:at]


@given(at=PLACES)
def test_heads_that_announce_the_answer_are_no_part_of_it(at: list[int]) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    response, body = fed(*cut(early + SIZED, at))
    assert (response.status, response.headers, body) == (200, {"content-length": "5"}, b"hello")
    assert (response.done, response.may_stay) == (True, True)


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (65 << 10),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_what_is_no_head_is_refused(sent: bytes) -> None:
    with pytest.raises(BadResponse):
        fed(sent)


@pytest.mark.parametrize(
    "sent",
    [
        b"zz\r\nhello\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloXX\r\n0\r\n\r\n",
        b"5\r\nhello5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
        b"fffffffffffffffff\r\n",
        b"5;" + b"x" * (65 << 10),
        b"0\r\nX: " + b"x" * (65 << 10),
    ],
)
def test_malformed_chunks_are_refused(sent: bytes) -> None:
    with pytest.raises(BadResponse):
        fed(CHUNKED, sent)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: -3",
        b"Content-Length: 0x3",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
    ],
)
def test_a_body_of_doubtful_length_is_refused(fields: bytes) -> None:
    with pytest.raises(BadResponse):
        fed(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "may_stay"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2\r\nContent-Length: 2", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2", True),
    ],
)
def test_the_head_says_whether_the_connection_may_stay(head: bytes, may_stay: bool) -> None:
    response, body = fed(head + b"\r\n\r\n", b"hi")
    assert (response.done, body, response.may_stay) == (True, b"hi", may_stay)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_answers_have_no_body_whatever_they_say(status: bytes) -> None:
    response, body = fed(CHUNKED.replace(b"200 OK", status))
    assert (response.done, body, response.may_stay) == (True, b"", True)


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b"H", b"no!"])
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
@pytest.mark.parametrize("together", [True, False])
def test_what_comes_after_the_end_is_no_part_of_the_body(
    more: bytes, connection: bytes, together: bool
) -> None:
    whole = SIZED.replace(b"\r\n\r\n", b"\r\nConnection: " + connection + b"\r\n\r\n")
    response, body = fed(whole + more) if together else fed(whole, more)
    assert (response.status, response.headers["content-length"], body) == (200, "5", b"hello")
    assert (response.done, response.may_stay) == (True, False)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    response, body = fed(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhel", b"lo")
    assert (body, response.done) == (b"hello", False)
    assert response.feed(b"") == b""
    assert (response.done, response.may_stay) == (True, False)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\n", SIZED[:-1], CHUNKED + b"2\r\nhi\r\n"]
)
def test_an_end_that_comes_too_early_is_told(sent: bytes) -> None:
    response, _ = fed(*cut(sent, []))
    with pytest.raises(BadResponse, match="hung up"):
        response.feed(b"")
