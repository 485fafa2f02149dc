"""Each row of the retry table, on real sockets: what is tried again, what is not, what is said."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import time
import tracemalloc
from contextlib import aclosing
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from fault_server import (
    ANSWER,
    Behaviour,
    FaultServer,
    answer_anything,
    close_unanswered,
    gzip_bomb,
    hang_before_headers,
    refuse,
    reset,
    respond,
    then_comments,
    then_hang,
    then_reset,
    whole,
)

from qcode.backends.http import LOCAL_TIMERS, Timers
from qcode.backends.openai_compatible import OpenAICompatibleBackend
from qcode.backends.retry import RETRIED_STATUS
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Chunk, Completed, Retrying, TextDelta, ToolCallDelta
from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
    SettingsError,
)
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret"
TOOL = ToolSpec(name="write_file", description="", schema={"type": "object"})
REQUEST = ChatRequest(system="", messages=(UserMessage(content="hello"),), tools=(TOOL,))
# Long enough for a busy machine to answer in, where an answer is to be awaited.
IMPATIENT = Timers(connect_s=0.3, first_token_s=0.5, idle_s=0.5, total_s=30)


def event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def backend_for(url: str, **options: object) -> OpenAICompatibleBackend:
    given = {"model": "m", "api_key": KEY, "jitter": lambda: 0.0, **options}
    return OpenAICompatibleBackend(base_url=url, **given)  # type: ignore[arg-type]


async def ask(url: str, *, request: ChatRequest = REQUEST, **options: object) -> list[Chunk]:
    backend = backend_for(url, **options)
    try:
        async with aclosing(backend.stream(request)) as stream:
            return [chunk async for chunk in stream]
    finally:
        await backend.aclose()


async def failure_of(url: str, **options: object) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await ask(url, request=REQUEST, **options)
    assert KEY not in f"{caught.value} {caught.value.hint}"
    return caught.value


def text_of(chunks: list[Chunk]) -> str:
    assert isinstance(chunks[-1], Completed)
    return chunks[-1].message.text


def retries(chunks: list[Chunk]) -> list[Retrying]:
    return [chunk for chunk in chunks if isinstance(chunk, Retrying)]


# Nothing was answered: six tries


async def test_a_refused_connection_is_tried_six_times() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        backend = backend_for(url)
        stream = backend.stream(REQUEST)
        attempts = [await anext(stream) for _ in range(5)]
        with pytest.raises(BackendUnavailable, match="is the server running") as caught:
            await anext(stream)
        await backend.aclose()
    assert [retry.attempt for retry in retries(attempts)] == [1, 2, 3, 4, 5]
    assert "--base-url" in caught.value.hint


async def test_a_name_that_does_not_resolve_is_said_to_be_that() -> None:
    backend = backend_for("http://no-such-host.invalid/v1")
    async with aclosing(backend.stream(REQUEST)) as stream:
        first = await anext(stream)
    await backend.aclose()
    assert isinstance(first, Retrying)
    assert "no-such-host.invalid" in first.reason
    assert "resolved" in first.reason


@pytest.mark.parametrize("fault", [reset, close_unanswered])
async def test_a_connection_lost_before_the_first_byte_is_tried_again(fault: Behaviour) -> None:
    async with FaultServer(fault, fault, fault, fault, fault, whole) as server:
        chunks = await ask(server.url)
        assert server.num_connections == 6
    assert text_of(chunks) == "whole"
    assert len(retries(chunks)) == 5
    async with FaultServer(fault) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 6
    assert isinstance(error, BackendUnavailable)


async def test_a_connection_that_is_never_accepted_is_given_up() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # fill the queue of connections nobody accepts
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        backend = backend_for(f"http://127.0.0.1:{full.getsockname()[1]}", timers=IMPATIENT)
        start = time.monotonic()
        async with aclosing(backend.stream(REQUEST)) as stream:
            first = await anext(stream)
        await backend.aclose()
        for each in waiting:
            each.close()
    assert isinstance(first, Retrying)
    assert time.monotonic() - start < 5


# Statuses


@pytest.mark.parametrize("status", sorted(RETRIED_STATUS))
async def test_a_status_that_passes_is_tried_again(status: int) -> None:
    async with FaultServer(refuse(status), whole) as server:
        chunks = await ask(server.url)
    assert text_of(chunks) == "whole"
    (retry,) = retries(chunks)
    assert str(status) in retry.reason


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (lambda: "0.01", 0.01),
        (lambda: "90", 90),
        (lambda: formatdate(time.time() + 60, usegmt=True), 60),
        (lambda: formatdate(time.time() - 60, usegmt=True), 0),
        (lambda: "0", 0),
        (lambda: "soon", 0),
    ],
)
async def test_the_wait_a_server_asks_for_is_kept(
    status: int, header: object, wait_s: float
) -> None:
    assert callable(header)
    async with FaultServer(refuse(status, headers={"Retry-After": header()}), whole) as server:
        backend = backend_for(server.url)
        async with aclosing(backend.stream(REQUEST)) as stream:
            first = await anext(stream)
        await backend.aclose()
    assert isinstance(first, Retrying)
    assert first.wait_s == pytest.approx(wait_s, abs=2 if wait_s == 60 else 0)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait_s", [3600, 121])
async def test_a_wait_too_long_is_told_instead(status: int, wait_s: int) -> None:
    asked = {"Retry-After": str(wait_s)}
    async with FaultServer(refuse(status, "busy", headers=asked)) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 1
    assert isinstance(error, RateLimited if status == 429 else BackendUnavailable)
    assert f"wait {wait_s / 60:.0f} minutes" in error.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidResponse),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, InvalidResponse),
        (422, InvalidResponse),
        (501, BackendUnavailable),
    ],
)
async def test_a_status_that_stays_is_told_at_once(status: int, kind: type[BackendError]) -> None:
    async with FaultServer(refuse(status, f"not with {KEY}")) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 1
    assert type(error) is kind
    assert f"answered {status}: not with ***" in error.message


async def test_a_full_window_is_not_tried_again_here() -> None:
    said = "the request exceeds the available context size (4096 tokens), try increasing it"
    async with FaultServer(refuse(400, {"message": said})) as server:
        backend = backend_for(server.url)
        with pytest.raises(ContextOverflow):
            async for _ in backend.stream(REQUEST):
                pass
        await backend.aclose()
        assert server.num_connections == 1
    assert backend.model.context_window == 4096


async def test_room_that_was_asked_for_beyond_the_window_is_asked_for_anew() -> None:
    said = "'max_tokens' is too large: 9000. This model's maximum context length is 4096 tokens"
    greedy = replace(REQUEST, sampling=SamplingParams(max_tokens=9000))
    async with FaultServer(refuse(400, said), whole) as server:
        chunks = await ask(server.url, request=greedy)
        assert server.num_connections == 2
    assert text_of(chunks) == "whole"
    assert retries(chunks) == []


async def test_a_redirect_elsewhere_is_not_followed() -> None:
    async with FaultServer(whole) as elsewhere:
        headers = {"Location": f"{elsewhere.url}/chat/completions"}
        for status in (301, 302, 307, 308):
            async with FaultServer(refuse(status, headers=headers)) as server:
                error = await failure_of(server.url)
            assert isinstance(error, InvalidResponse)
            assert "redirects" in error.hint
        assert elsewhere.num_connections == 0


# TLS


async def test_a_certificate_nobody_vouches_for_is_refused_at_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("untrusted.pem"))
    async with FaultServer(whole, tls=context) as server:
        error = await failure_of(server.url)
        assert server.num_connections <= 1
    assert "no secure connection" in error.message
    assert "certificate" in error.message


async def test_a_server_without_tls_is_not_asked_in_the_clear() -> None:
    async with FaultServer(answer_anything) as server:
        error = await failure_of(server.url.replace("http:", "https:"))
        assert server.num_connections == 1
    assert "no secure connection" in error.message


async def test_a_handshake_that_hangs_is_no_answer() -> None:
    async with FaultServer(hang_before_headers) as server:
        backend = backend_for(server.url.replace("http:", "https:"), timers=IMPATIENT)
        async with aclosing(backend.stream(REQUEST)) as stream:
            first = await anext(stream)
        await backend.aclose()
    assert isinstance(first, Retrying)
    assert "nothing answers" in first.reason


# Silence


@pytest.mark.parametrize(
    "silent",
    [
        hang_before_headers,
        respond(then=then_hang),
        respond(event({"role": "assistant", "content": ""}), then=then_hang),
        respond(event({"content": "Hel"}), then=then_hang),
    ],
    ids=["headers", "first byte", "first token", "mid-stream"],
)
async def test_silence_counts_as_a_lost_connection(silent: Behaviour) -> None:
    async with FaultServer(silent, whole) as server:
        chunks = await ask(server.url, timers=IMPATIENT)
    assert text_of(chunks) == "whole"
    assert len(retries(chunks)) == 1


async def test_comments_keep_no_stream_alive() -> None:
    never = asyncio.Event()
    mute = respond(event({"content": "Hel"}), then=then_comments(never))
    async with FaultServer(mute, whole) as server:
        chunks = await ask(server.url, timers=IMPATIENT)
    assert text_of(chunks) == "whole"


async def test_a_slow_prompt_is_no_error_after_an_early_first_event() -> None:
    """Servers announce an answer long before its first token."""
    patient = replace(IMPATIENT, first_token_s=60, idle_s=0.2)
    prefilled = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await then_comments(prefilled)(reader, writer)
        writer.write(ANSWER)
        await writer.drain()

    early = respond(event({"role": "assistant", "content": ""}), then=slow)
    async with FaultServer(early) as server:
        asyncio.get_running_loop().call_later(0.6, prefilled.set)
        chunks = await ask(server.url, timers=patient)
    assert text_of(chunks) == "whole"
    assert retries(chunks) == []


def test_a_server_of_this_machine_is_waited_for_longer() -> None:
    assert (LOCAL_TIMERS.first_token_s, Timers().first_token_s) == (300, 120)
    assert Timers().idle_s == 60
    assert Timers().total_s == 30 * 60


async def test_an_answer_without_end_is_ended() -> None:
    async def forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            writer.write(event({"content": "x"}))
            await writer.drain()
            await asyncio.sleep(0)

    async with FaultServer(respond(then=forever)) as server:
        error = await failure_of(server.url, timers=replace(IMPATIENT, total_s=0.3))
        assert server.num_connections == 1
    assert "still answering" in error.message


# Answers that break


@pytest.mark.parametrize(
    "broken",
    [
        respond(event({"content": "Hel"}), then=then_reset),
        respond(event({"content": "Hel"})),
        respond(event({"content": "Hel"}), length=10_000),
        respond(event({"content": "é"})[:-10] + b"\xc3"),
        respond(b"data: {oops\n\n" * 3, then=then_hang),
        respond(b'data: {"error": {"message": "out of memory"}}\n\n', then=then_hang),
        respond(event({"content": "x"}), event({}, "abort"), then=then_hang),
        respond(b"data: [DONE]\n\n"),
        respond(b"not gzip", headers={"Content-Encoding": "gzip"}),
        respond(b"?", headers={"Content-Encoding": "br"}),
    ],
    ids=[
        "reset",
        "closed without an end",
        "shorter than promised",
        "cut inside a character",
        "three damaged events",
        "an error as an event",
        "an aborted end",
        "nothing",
        "false gzip",
        "an encoding not asked for",
    ],
)
async def test_an_answer_that_breaks_is_tried_twice_more(broken: Behaviour) -> None:
    async with FaultServer(broken, broken, whole) as server:
        chunks = await ask(server.url)
    assert text_of(chunks) == "whole"
    assert len(retries(chunks)) == 2
    async with FaultServer(broken) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 3
    assert isinstance(error, BackendUnavailable)


async def test_what_was_shown_of_a_broken_answer_is_void_and_half_a_call_never_made() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "write_file", "arguments": '{"path": "x'}}
    half = respond(event({"content": "Hel"}), event({"tool_calls": [call]}), then=then_reset)
    async with FaultServer(half, whole) as server:
        chunks = await ask(server.url)
    kinds = [type(chunk) for chunk in chunks]
    assert kinds == [TextDelta, ToolCallDelta, Retrying, TextDelta, Completed]
    assert isinstance(chunks[-1], Completed)
    assert chunks[-1].message.tool_calls == ()
    assert text_of(chunks) == "whole"


@pytest.mark.parametrize("num_damaged", [1, 2])
async def test_a_damaged_event_or_two_are_skipped(num_damaged: int) -> None:
    async with FaultServer(respond(b"data: {oops\n\n" * num_damaged + ANSWER)) as server:
        chunks = await ask(server.url)
    assert text_of(chunks) == "whole"
    assert retries(chunks) == []


async def test_a_stream_that_ends_empty_is_asked_for_its_reason() -> None:
    """llama-cpp-python begins the stream before it looks at the prompt's length."""
    said = "Requested tokens (5192) exceed context window of 4096"
    async with FaultServer(respond(), refuse(400, said)) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 2
    assert isinstance(error, ContextOverflow)


# Limits


async def test_a_line_without_end_is_refused() -> None:
    flood = respond(b"data: " + b"x" * (2 << 20), then=then_hang)
    async with FaultServer(flood) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 1
    assert "1 MiB" in error.message


async def test_an_answer_larger_than_the_limit_is_refused() -> None:
    filler = b": " + b"x" * 65_533 + b"\n"

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(1100):
            writer.write(filler)
            await writer.drain()

    async with FaultServer(respond(then=flood)) as server:
        error = await failure_of(server.url)
    assert "64 MiB" in error.message


async def test_a_small_answer_that_expands_without_end_is_not_expanded() -> None:
    async with FaultServer(gzip_bomb(256 << 20)) as server:
        tracemalloc.start()
        error = await failure_of(server.url)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert "1 MiB" in error.message
    assert peak_bytes < 32 << 20


async def test_compressed_answers_are_read() -> None:
    packed = gzip.compress(ANSWER)
    pieces = [packed[at : at + 7] for at in range(0, len(packed), 7)]
    async with FaultServer(respond(*pieces, headers={"Content-Encoding": "gzip"})) as server:
        assert text_of(await ask(server.url)) == "whole"


async def test_an_error_page_without_end_is_cut() -> None:
    page = respond(b"<html>" + b"no " * 100_000, status=400, content_type="text/html")
    async with FaultServer(page) as server:
        error = await failure_of(server.url)
    assert len(error.message) < 500


async def test_endless_arguments_are_refused() -> None:
    piece = {"index": 0, "id": "a", "function": {"name": "write_file", "arguments": "x" * 60_000}}
    async with FaultServer(respond(event({"tool_calls": [piece]}) * 20, then=then_hang)) as server:
        error = await failure_of(server.url)
        assert server.num_connections == 1
    assert "1 MiB" in error.message


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very\r\nX: secret", "sk-verys\u00e9cret"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(SettingsError, match="API key") as caught:
        backend_for("http://127.0.0.1:9/v1", api_key=key)
    assert "very" not in caught.value.message
    with pytest.raises(SettingsError, match="header X-Key") as caught:
        backend_for("http://127.0.0.1:9/v1", headers={"X-Key": key})
    assert "very" not in caught.value.message


async def test_the_line_end_a_key_was_read_with_is_not_part_of_it() -> None:
    async with FaultServer(respond(ANSWER)) as server:
        await ask(server.url, api_key=f"{KEY}\r\n")


@pytest.mark.parametrize("proxy", ["socks9://127.0.0.1:9", "http://bar:x"])
async def test_a_proxy_that_cannot_be_used_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(SettingsError, match="proxy"):
        backend_for("http://model.invalid/v1")


async def test_a_web_page_is_no_answer_and_is_not_asked_for_again() -> None:
    page = respond(b"<html>Welcome</html>", headers={"Content-Type": "text/html; charset=utf-8"})
    async with FaultServer(page) as server:
        with pytest.raises(InvalidResponse, match="web page") as caught:
            await ask(server.url)
        assert server.num_connections == 1
    assert "base URL" in caught.value.hint


@pytest.mark.parametrize("url", ["http://", "ftp://host/v1", "http://[::1:9/v1", ""])
def test_what_is_no_base_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="base URL"):
        backend_for(url)
