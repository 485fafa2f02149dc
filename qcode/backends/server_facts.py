"""What a server says of itself and of one model: kind, version, context window.

Each server has its own place for the window it really works with, which may be far smaller than
what the model was trained for. The places are those of the reference on peers: the list of models
for vLLM, SGLang, llama.cpp and the hosted routers; `/api/v1/models` for LM Studio; `/api/ps` and
`/api/show` for Ollama; `/props` for llama.cpp. What is loaded is preferred to what is possible.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping

from qcode.backends.http import ChatEndpoint, RequestFailed
from qcode.backends.retry import Failure
from qcode.protocol.errors import InvalidResponse
from qcode.protocol.values import dataclass

JsonObject = Mapping[str, object]

_LISTED_WINDOWS = ("max_model_len", "context_length", "context_window", "loaded_context_length")
_OLLAMA_DEFAULT = 4096
_NUM_CTX = re.compile(r"^\s*num_ctx\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """`models` are the names listed, `model` the one asked about: the first one listed, unless it
    was named. `window_advice` says how to serve it with a larger window, where that is known."""

    model: str
    models: tuple[str, ...] = ()
    server: str = ""
    context_window: int | None = None
    window_advice: str = ""


async def list_models(endpoint: ChatEndpoint) -> list[JsonObject]:
    """The models a server lists, each with an `id`. Raises RequestFailed."""
    listed = await endpoint.get_json("models")
    found = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(found, list):
        return []
    return [entry for entry in found if isinstance(entry, dict) and _text(entry, "id")]


async def ask_server(endpoint: ChatEndpoint, model: str | None) -> ServerFacts:
    """Raises RequestFailed where the models cannot be listed, or none is and none was named."""
    listed = await list_models(endpoint)
    names = tuple(_text(entry, "id") for entry in listed)
    if not model and not names:
        raise RequestFailed(
            Failure(kind="final"),
            InvalidResponse(f"{endpoint.shown_url} lists no models", "name one with --model"),
        )
    model = model or names[0]
    entry: JsonObject = next((entry for entry in listed if entry["id"] == model), {})
    window = _listed_window(entry)
    own = _Asked(endpoint, model)
    if window is not None and not _is_ollama(entry):
        return ServerFacts(
            model=model,
            models=names,
            server=await own.name_from_listing(entry),
            context_window=window,
        )
    return await own.facts(names)


class _Asked:
    """The server's own interfaces beside the common one. Those it does not have stay silent."""

    def __init__(self, endpoint: ChatEndpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model

    async def facts(self, names: tuple[str, ...]) -> ServerFacts:
        lm_studio, running, shown, props, sglang = await asyncio.gather(
            self._get("/api/v1/models"),
            self._get("/api/ps"),
            self._or_nothing(lambda: self._endpoint.post_json("/api/show", {"model": self._model})),
            self._get("/props"),
            self._get("/get_server_info"),
        )
        if _is_unloaded_at_ollama(running, shown, self._model):
            # Only a loaded model has a window. Loading is what the first request would begin with.
            await self._or_nothing(
                lambda: self._endpoint.post_json("/api/generate", {"model": self._model})
            )
            running = await self._get("/api/ps")
        # LM Studio answers some of Ollama's questions too, so it comes first.
        found = (
            _lm_studio(lm_studio, self._model)
            or _ollama(running, shown, self._model)
            or _llama_cpp(props)
            or _sglang(sglang)
        )
        server, window, advice = found or ("", None, "")
        if server == "Ollama":
            server = _named(server, _text(await self._get("/api/version"), "version"))
        return ServerFacts(
            model=self._model,
            models=names,
            server=server,
            context_window=window,
            window_advice=advice,
        )

    async def name_from_listing(self, entry: JsonObject) -> str:
        owner = _text(entry, "owned_by")
        match owner:
            case "vllm":
                return _named("vLLM", _text(await self._get("/version"), "version"))
            case "sglang":
                return _named("SGLang", _text(await self._get("/get_server_info"), "version"))
            case "llamacpp":
                return _named("llama.cpp", _text(await self._get("/props"), "build_info"))
        return ""

    async def _get(self, path: str) -> JsonObject:
        return await self._or_nothing(lambda: self._endpoint.get_json(path))

    async def _or_nothing(self, ask: Callable[[], Awaitable[object]]) -> JsonObject:
        try:
            answer = await ask()
        except RequestFailed:
            return {}
        return answer if isinstance(answer, dict) else {}


_Found = tuple[str, int | None, str]


def _lm_studio(listed: JsonObject, model: str) -> _Found | None:
    models = listed.get("models")
    if not isinstance(models, list):
        return None
    for entry in models:
        if isinstance(entry, dict) and model in (entry.get("key"), *_instance_ids(entry)):
            windows = [_count(config, "context_length") for config in _instance_configs(entry)]
            loaded = min((window for window in windows if window), default=None)
            advice = f"load it with more: lms load {model} --context-length 32768"
            return "LM Studio", loaded, advice
    return None


def _instances(entry: JsonObject) -> Iterator[JsonObject]:
    listed = entry.get("loaded_instances")
    yield from (item for item in _items(listed) if isinstance(item, dict))


def _instance_ids(entry: JsonObject) -> Iterator[object]:
    yield from (instance.get("id") for instance in _instances(entry))


def _instance_configs(entry: JsonObject) -> Iterator[JsonObject]:
    for instance in _instances(entry):
        config = instance.get("config")
        if isinstance(config, dict):
            yield config


def _is_unloaded_at_ollama(running: JsonObject, shown: JsonObject, model: str) -> bool:
    return "model_info" in shown and _loaded_at_ollama(running, model) is None


def _loaded_at_ollama(running: JsonObject, model: str) -> JsonObject | None:
    names = (model, f"{model}:latest")
    for entry in _items(running.get("models")):
        if isinstance(entry, dict) and (entry.get("name") in names or entry.get("model") in names):
            return entry
    return None


def _ollama(running: JsonObject, shown: JsonObject, model: str) -> _Found | None:
    """Versions that do not say how a model was loaded gave it the window of its own file, or
    Ollama's default."""
    if "model_info" not in shown and "modelfile" not in shown:
        return None
    window = _count(_loaded_at_ollama(running, model) or {}, "context_length")
    if window is None:
        own = _NUM_CTX.search(_text(shown, "parameters"))
        window = int(own[1]) if own else _OLLAMA_DEFAULT
    return "Ollama", window, "serve it with more: OLLAMA_CONTEXT_LENGTH=32768 ollama serve"


def _llama_cpp(props: JsonObject) -> _Found | None:
    generation = props.get("default_generation_settings")
    if not isinstance(generation, dict):
        return None
    server = _named("llama.cpp", _text(props, "build_info"))
    return server, _count(generation, "n_ctx"), "serve it with more: llama-server -c 32768"


def _sglang(info: JsonObject) -> _Found | None:
    window = _count(info, "context_length")
    return (_named("SGLang", _text(info, "version")), window, "") if window else None


def _listed_window(entry: JsonObject) -> int | None:
    """What the list of models says. A model's trained length (`n_ctx_train`) is no window."""
    meta = entry.get("meta")
    metadata = entry.get("metadata")
    found = [_count(entry, key) for key in _LISTED_WINDOWS]
    found += [_count(meta, "n_ctx") if isinstance(meta, dict) else None]
    found += [_count(metadata, "context_length") if isinstance(metadata, dict) else None]
    return next((window for window in found if window), None)


def _is_ollama(entry: JsonObject) -> bool:
    return entry.get("owned_by") == "library"


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _named(server: str, version: str) -> str:
    return f"{server} {version}".strip()


def _text(values: JsonObject, key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _count(values: JsonObject, key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and value > 0 else None
