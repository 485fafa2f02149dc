"""Each server's own place for the context window it really works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from chat_server import ChatServer

from qcode.backends.http import ChatEndpoint, RequestFailed
from qcode.backends.server_facts import ServerFacts, ask_server

pytestmark = pytest.mark.anyio

M = "org/m"
NAMED: dict[str, object] = {"id": M, "object": "model"}
LM_STUDIO = {
    "models": [
        {"key": "other", "loaded_instances": []},
        {
            "key": M,
            "max_context_length": 262_144,
            "loaded_instances": [{"id": M, "config": {"context_length": 8192}}],
        },
    ]
}
SHOWN = {"modelfile": "FROM x", "model_info": {"x.context_length": 262_144}}


async def facts_of(
    listed: Mapping[str, object], routes: Mapping[str, object], model: str | None = M
) -> tuple[ServerFacts, ChatServer]:
    with ChatServer([], models=[listed], routes=routes) as server:
        endpoint = ChatEndpoint(server.url)
        try:
            return await ask_server(endpoint, model), server
        finally:
            await endpoint.aclose()


SERVERS: dict[str, tuple[dict[str, object], dict[str, Any], int | None, str]] = {
    "vLLM": (
        {**NAMED, "owned_by": "vllm", "max_model_len": 40_960},
        {"/version": {"version": "0.11.0"}},
        40_960,
        "vLLM 0.11.0",
    ),
    "SGLang": (
        {**NAMED, "owned_by": "sglang", "max_model_len": 32_768},
        {"/get_server_info": {"version": "0.5.3"}},
        32_768,
        "SGLang 0.5.3",
    ),
    "SGLang, older": (
        {**NAMED, "owned_by": "sglang"},
        {"/get_server_info": {"version": "0.4.0", "context_length": 16_384}},
        16_384,
        "SGLang 0.4.0",
    ),
    "llama.cpp": (
        {**NAMED, "owned_by": "llamacpp", "meta": {"n_ctx": 8192, "n_ctx_train": 262_144}},
        {"/props": {"build_info": "b6402"}},
        8192,
        "llama.cpp b6402",
    ),
    "llama.cpp, older": (
        {**NAMED, "owned_by": "llamacpp", "meta": {"n_ctx_train": 262_144}},
        {"/props": {"build_info": "b4000", "default_generation_settings": {"n_ctx": 4096}}},
        4096,
        "llama.cpp b4000",
    ),
    "LM Studio, which knows some of Ollama's paths": (
        {**NAMED, "owned_by": "organization_owner"},
        {"/api/v1/models": LM_STUDIO, "/api/tags": {"models": []}, "/api/ps": {"models": []}},
        8192,
        "LM Studio",
    ),
    "Ollama, loaded": (
        {**NAMED, "owned_by": "library"},
        {
            "/api/ps": {"models": [{"name": f"{M}:latest", "context_length": 16_384}]},
            "/api/show": {**SHOWN, "parameters": "num_ctx 8192"},
            "/api/version": {"version": "0.12.3"},
        },
        16_384,
        "Ollama 0.12.3",
    ),
    "Ollama, which does not say how it loads": (
        {**NAMED, "owned_by": "library"},
        {
            "/api/ps": {"models": []},
            "/api/show": {**SHOWN, "parameters": 'stop "x"\nnum_ctx                 8192'},
        },
        8192,
        "Ollama",
    ),
    "Ollama, with nothing set": (
        {**NAMED, "owned_by": "library"},
        {"/api/ps": {"models": []}, "/api/show": SHOWN},
        4096,
        "Ollama",
    ),
    "OpenRouter": ({**NAMED, "context_length": 131_072}, {}, 131_072, ""),
    "DeepInfra": ({**NAMED, "metadata": {"context_length": 65_536}}, {}, 65_536, ""),
    "one that says nothing": (NAMED, {}, None, ""),
    "one that knows only the training": ({**NAMED, "meta": {"n_ctx_train": 32_768}}, {}, None, ""),
    "one that talks nonsense": (
        {**NAMED, "max_model_len": "many", "meta": []},
        {
            "/props": [],
            "/api/ps": {"models": "no"},
            "/api/show": 3,
            "/api/v1/models": {"models": 1},
        },
        None,
        "",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_the_window_is_the_one_that_is_served(name: str) -> None:
    listed, routes, window, server = SERVERS[name]
    facts, _ = await facts_of(listed, routes)
    assert (facts.context_window, facts.server) == (window, server)
    assert facts.model == M


async def test_a_model_that_is_not_loaded_yet_is_loaded_to_know() -> None:
    routes = {"/api/ps": {"models": []}, "/api/show": SHOWN, "/api/generate": {"done": True}}
    facts, server = await facts_of({**NAMED, "owned_by": "library"}, routes)
    asked = [(request.method, request.path) for request in server.requests]
    assert asked.index(("POST", "/api/generate")) < len(asked) - 1
    assert "OLLAMA_CONTEXT_LENGTH" in facts.window_advice


async def test_a_list_that_tells_is_all_that_is_asked_of_a_router() -> None:
    _, server = await facts_of({**NAMED, "context_length": 131_072}, {})
    assert [request.path for request in server.requests] == ["/v1/models"]


async def test_without_a_name_the_first_model_is_meant() -> None:
    facts, _ = await facts_of({"id": "first", "max_model_len": 9}, {}, model=None)
    assert (facts.model, facts.models, facts.context_window) == ("first", ("first",), 9)


async def test_a_model_that_is_not_listed_has_no_listed_window() -> None:
    facts, _ = await facts_of({"id": "first", "max_model_len": 9}, {}, model="mine")
    assert (facts.model, facts.context_window) == ("mine", None)


async def test_no_model_at_all_is_an_error() -> None:
    with pytest.raises(RequestFailed, match="lists no models"):
        await facts_of({"object": "model"}, {}, model=None)
