"""Servers found on this machine: only those that list models, and never for long."""

from __future__ import annotations

import socket
import time

import pytest
from chat_server import ChatServer
from fault_server import FaultServer, hang_before_headers, respond

from qcode.backends.discovery import USUAL_PORTS, FoundServer, find_local_servers

pytestmark = pytest.mark.anyio

PATIENT_S = 10.0  # a busy machine answers within this, and nothing waits for it


async def test_servers_are_found_and_named() -> None:
    models = [{"id": "qwen3:8b", "owned_by": "library"}, {"id": "other", "owned_by": "library"}]
    with ChatServer([], models=models) as ollama, ChatServer([]) as unknown:
        ports = {ollama.port: "LM Studio", unknown.port: "vLLM"}
        found = await find_local_servers(ports, timeout_s=PATIENT_S)
        assert found == (
            FoundServer(name="Ollama", base_url=ollama.url, models=("qwen3:8b", "other")),
            FoundServer(name="vLLM", base_url=unknown.url, models=("test-model",)),
        )
    assert found[0].flags == f"--base-url {ollama.url} --model qwen3:8b"
    (request,) = ollama.requests
    assert "authorization" not in request.headers


async def test_what_lists_no_models_is_none() -> None:
    page = respond(b"<html>It works!</html>", content_type="text/html")
    other = respond(b'{"data": [{"name": "x"}]}', content_type="application/json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with FaultServer(page) as first, FaultServer(other) as second:
            ports = {first.port: "a", second.port: "b", free.getsockname()[1]: "c"}
            assert await find_local_servers(ports, timeout_s=PATIENT_S) == ()


async def test_a_server_that_hangs_holds_nothing_up() -> None:
    async with FaultServer(hang_before_headers) as first, FaultServer(hang_before_headers) as other:
        start = time.monotonic()
        assert await find_local_servers({first.port: "a", other.port: "b"}, timeout_s=0.2) == ()
        assert time.monotonic() - start < 2


def test_the_usual_ports_are_those_the_servers_have() -> None:
    assert dict(USUAL_PORTS) == {
        11434: "Ollama",
        1234: "LM Studio",
        8080: "llama.cpp",
        8000: "vLLM",
        30000: "SGLang",
    }
