"""Model servers that run on this machine, at the ports they usually have."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from qcode.backends.http import ChatEndpoint, RequestFailed, Timers
from qcode.backends.server_facts import list_models
from qcode.protocol.values import dataclass

# In the order they are offered. LM Studio answers some of Ollama's questions, hence by the list.
USUAL_PORTS: Mapping[int, str] = {
    11434: "Ollama",
    1234: "LM Studio",
    8080: "llama.cpp",
    8000: "vLLM",
    30000: "SGLang",
}
_OWNERS = {
    "library": "Ollama",
    "organization_owner": "LM Studio",
    "llamacpp": "llama.cpp",
    "vllm": "vLLM",
    "sglang": "SGLang",
}
DISCOVERY_TIMEOUT_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundServer:
    """`name` is what the server seems to be; `models` are those it lists, at least one."""

    name: str
    base_url: str
    models: tuple[str, ...]

    @property
    def flags(self) -> str:
        """What to type to use it."""
        return f"--base-url {self.base_url} --model {self.models[0]}"


async def find_local_servers(
    ports: Mapping[int, str] = USUAL_PORTS, *, timeout_s: float = DISCOVERY_TIMEOUT_S
) -> tuple[FoundServer, ...]:
    """Asks all ports at once, on this machine only and without any key; takes `timeout_s` seconds
    at most. What does not list models is no model server."""
    found = await asyncio.gather(*(_ask(port, name, timeout_s) for port, name in ports.items()))
    return tuple(server for server in found if server is not None)


async def _ask(port: int, usual_name: str, timeout_s: float) -> FoundServer | None:
    base_url = f"http://127.0.0.1:{port}/v1"
    timers = Timers(connect_s=timeout_s, first_token_s=timeout_s, idle_s=timeout_s)
    endpoint = ChatEndpoint(base_url, timers=timers)
    try:
        with suppress(RequestFailed, TimeoutError):
            async with asyncio.timeout(timeout_s):
                listed = await list_models(endpoint)
            if listed:
                names = tuple(str(entry["id"]) for entry in listed)
                owner = _OWNERS.get(str(listed[0].get("owned_by")), usual_name)
                return FoundServer(name=owner, base_url=base_url, models=names)
    finally:
        await endpoint.aclose()
    return None
