"""From settings of an endpoint to its backend: what is asked, what is kept, what is said."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, say

from qcode.backends.connection import ASSUMED_WINDOW, Endpoint, connect
from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.openai_compatible import OpenAICompatibleBackend
from qcode.backends.profile_store import ProfileStore
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Completed
from qcode.protocol.messages import UserMessage
from qcode.wire.openai_request import Dialect

LISTED = {"id": "m", "owned_by": "vllm", "max_model_len": 40_960}
REQUEST = ChatRequest(system="", messages=(UserMessage(content="hi"),))


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path)


def answer_of(backend: OpenAICompatibleBackend) -> str:
    async def ask() -> str:
        text = ""
        async for chunk in backend.stream(REQUEST):
            if isinstance(chunk, Completed):
                text = chunk.message.text
        await backend.aclose()
        return text

    return asyncio.run(ask())


def opened(url: str, store: ProfileStore, **options: Any) -> OpenAICompatibleBackend:
    backend = connect(Endpoint(**{"base_url": url, "model": "m", **options}), store)
    asyncio.run(backend.aclose())
    return backend


def test_the_window_is_asked_for_and_kept(store: ProfileStore) -> None:
    with ChatServer([], models=[LISTED]) as server:
        backend = opened(server.url, store)
        assert backend.model.context_window == 40_960
        assert backend.notices == ()
    kept = store.load(server.url, "m")
    assert kept is not None
    assert (kept.context_window, kept.server) == (40_960, "vLLM")
    # The server is gone now, and what it said is not.
    assert opened(server.url, store).model.context_window == 40_960


def test_a_server_started_anew_with_another_window_is_believed(store: ProfileStore) -> None:
    with ChatServer([], models=[LISTED]) as server:
        store.save(server.url, "m", EndpointProfile(context_window=8192))
        assert opened(server.url, store).model.context_window == 40_960


def test_an_unknown_window_is_said_and_assumed(store: ProfileStore) -> None:
    with ChatServer([], models=[{"id": "m"}]) as server:
        backend = opened(server.url, store)
        chosen = opened(server.url, store, context_window=100_000)
    assert backend.model.context_window == ASSUMED_WINDOW
    (notice,) = backend.notices
    assert "32,768 tokens are assumed" in notice
    assert "--context" in notice
    assert (chosen.model.context_window, chosen.notices) == (100_000, ())


def test_a_window_learned_from_a_refusal_needs_no_guess(store: ProfileStore) -> None:
    with ChatServer([], models=[{"id": "m"}]) as server:
        store.save(server.url, "m", EndpointProfile(context_window=2048))
        assert opened(server.url, store).model.context_window == 2048


def test_a_small_window_is_told_with_the_way_to_a_larger_one(store: ProfileStore) -> None:
    routes = {
        "/api/ps": {"models": [{"name": "m", "context_length": 4096}]},
        "/api/show": {"modelfile": "FROM x", "model_info": {}},
    }
    with ChatServer([], models=[{"id": "m", "owned_by": "library"}], routes=routes) as server:
        small = opened(server.url, store)
        wished = opened(server.url, store, context_window=65_536)
    assert small.model.context_window == 4096
    (notice,) = small.notices
    assert "4,096 tokens, little for work on code" in notice
    assert "OLLAMA_CONTEXT_LENGTH=32768 ollama serve" in notice
    assert wished.model.context_window == 4096
    (notice,) = wished.notices
    assert "less than the 65,536 that are set" in notice


def test_without_a_model_the_first_one_and_its_profile_are_used(store: ProfileStore) -> None:
    with ChatServer([], models=[{"id": "m"}]) as server:
        store.save(server.url, "m", EndpointProfile(context_window=2048))
        backend = opened(server.url, store, model=None)
    assert (backend.model.name, backend.model.context_window) == ("m", 2048)


def test_a_server_that_does_not_answer_is_left_to_the_first_request(store: ProfileStore) -> None:
    backend = opened("http://127.0.0.1:1/v1", store)
    assert (backend.model.context_window, backend.notices) == (None, ())
    assert store.load("http://127.0.0.1:1/v1", "m") is None


def test_it_can_be_called_inside_a_loop(store: ProfileStore) -> None:
    async def inside(url: str) -> int | None:
        backend = connect(Endpoint(base_url=url, model="m"), store)
        await backend.aclose()
        return backend.model.context_window

    with ChatServer([], models=[LISTED]) as server:
        assert asyncio.run(inside(server.url)) == 40_960


def test_what_is_set_goes_before_what_was_found_out_and_is_not_kept(store: ProfileStore) -> None:
    def amend(profile: EndpointProfile) -> EndpointProfile:
        return replace(profile, dialect=Dialect(omitted=frozenset({"stream_options"})))

    with ChatServer([say("hi")], models=[LISTED]) as server:
        endpoint = Endpoint(
            base_url=server.url,
            model="m",
            api_key="sk-1",
            headers={"X-Team": "blue"},
            extra_body={"top_k": 3},
            amend=amend,
        )
        assert answer_of(connect(endpoint, store)) == "hi"
    request = server.requests[-1]
    assert "stream_options" not in request.body
    assert request.body["top_k"] == 3
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["x-team"] == "blue"
    kept = store.load(server.url, "m")
    assert kept is not None
    assert kept.dialect == Dialect()


@pytest.mark.parametrize(
    ("timeouts", "is_local", "expected"),
    [
        ((None, None), True, (300, 300)),
        ((None, None), False, (120, 60)),
        ((900.0, None), True, (900, 300)),
        ((None, 5.0), False, (120, 5)),
    ],
)
def test_the_waits_can_be_set(
    timeouts: tuple[float | None, float | None], is_local: bool, expected: tuple[float, float]
) -> None:
    timers = Endpoint(base_url="http://x", timeouts=timeouts).timers(is_local=is_local)
    assert (timers.first_token_s, timers.idle_s) == expected
