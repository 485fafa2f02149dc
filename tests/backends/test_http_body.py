"""Bodies of HTTP/1.1 responses, however the network cuts them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.backends.http_body import (
    BadResponse,
    ChunkedBody,
    SizedBody,
    UnsizedBody,
    body_of,
    take_head,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";a=b", b" ; name"]),
    trailer=st.sampled_from([b"", b"Digest: x\r\n"]),
    line_end=st.sampled_from([b"\r\n", b"\n"]),
    at=st.lists(st.integers(0, 1000), max_size=12),
)
def test_chunks_come_out_whole_however_they_are_cut(
    chunks: list[bytes], extension: bytes, trailer: bytes, line_end: bytes, at: list[int]
) -> None:
    sent = b"".join(
        b"%x" % len(chunk) + extension + line_end + chunk + line_end for chunk in chunks
    )
    sent += b"0" + line_end + trailer.replace(b"\r\n", line_end) + line_end
    body = ChunkedBody()
    received = b""
    pieces = cut(sent, at)
    for piece in pieces:
        received += body.feed(piece)
    assert received == b"".join(chunks)
    assert body.done
    assert not body.overrun


@given(data=st.binary(max_size=200), at=st.lists(st.integers(0, 1000), max_size=6))
def test_any_bytes_are_a_body_or_are_refused(data: bytes, at: list[int]) -> None:
    body = ChunkedBody()
    try:
        for piece in cut(data, at):
            body.feed(piece)
    except BadResponse:
        return
    assert body.done or len(data) < 4096 + 200


@pytest.mark.parametrize(
    "sent",
    [
        b"zz\r\nhello\r\n",
        b"5\r\nhelloXX\r\n0\r\n\r\n",
        b"5\r\nhello5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
        b"fffffffffffffffff\r\n",
        b"5" * 5000,
        b"0\r\n" + b"x" * 5000,
    ],
)
def test_malformed_chunks_are_refused(sent: bytes) -> None:
    body = ChunkedBody()
    with pytest.raises(BadResponse):
        body.feed(sent)


def test_what_comes_after_the_end_is_no_part_of_the_body() -> None:
    chunked, sized = ChunkedBody(), SizedBody(5)
    assert chunked.feed(b"2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK") == b"hi"
    assert sized.feed(b"hello, world") == b"hello"
    assert (chunked.done, chunked.overrun) == (sized.done, sized.overrun) == (True, True)


@given(at=st.integers(0, 200))
def test_a_head_is_taken_once_it_is_there(at: int) -> None:
    whole = b"HTTP/1.1 404 Not Found\r\nX: a,  B\r\nx: c\r\nEmpty:\r\n\r\nbody"
    end = whole.index(b"body")
    taken = take_head(whole[:at])
    if at < end:
        assert taken is None
        return
    assert taken is not None
    head, rest = taken
    assert (head.status, head.minor_version) == (404, 1)
    assert head.headers == {"x": "a,  B, c", "empty": ""}
    assert head.values("x") == ["a", "b", "c"]
    assert rest == whole[end:at]


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (65 << 10),
    ],
)
def test_what_is_no_head_is_refused(sent: bytes) -> None:
    with pytest.raises(BadResponse):
        take_head(sent)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (b"Transfer-Encoding: Chunked", ChunkedBody),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3", ChunkedBody),
        (b"Content-Length: 3", SizedBody),
        (b"Content-Length: 3\r\ncontent-length: 3", SizedBody),
        (b"X: 1", UnsizedBody),
    ],
)
def test_the_fields_say_how_long_the_body_is(fields: bytes, kind: type) -> None:
    taken = take_head(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n")
    assert taken is not None
    assert isinstance(body_of(taken[0]), kind)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: -3",
        b"Content-Length: 0x3",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
    ],
)
def test_a_body_of_doubtful_length_is_refused(fields: bytes) -> None:
    taken = take_head(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n")
    assert taken is not None
    with pytest.raises(BadResponse):
        body_of(taken[0])


def test_some_answers_have_no_body_whatever_they_say() -> None:
    taken = take_head(CHUNKED.replace(b"200 OK", b"204 No Content"))
    assert taken is not None
    assert body_of(taken[0]).done
