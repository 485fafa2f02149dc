"""Which model is asked: a script, an endpoint, or a model of this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.config.locations import Locations
from qcode.protocol.errors import SettingsError

if TYPE_CHECKING:
    from qcode.backends.discovery import FoundServer
    from qcode.config.settings import Settings
    from qcode.engine.options import PackedWeightsOptions, PrefixCacheOptions
    from qcode.protocol.backends import Backend

Obtain = Callable[[str], Path]
"""Fetches a named model and returns its path; may block for as long as a download takes."""

SCRIPTED = "scripted:"
_SMALL_MEMORY_BYTES = 4 << 30


def create_backend(
    settings: Settings,
    *,
    obtain: Obtain | None = None,
    tell: Callable[[str], None] | None = None,
    keep_prefixes: bool = True,
) -> Backend:
    """`scripted:FILE` and model files name themselves; else an endpoint, if one is set; else a
    model of this machine. `obtain` is asked for a named model that is not here yet.
    Without `keep_prefixes` nothing of what is asked is kept on disk."""
    model = settings.model
    if model is not None and model.startswith(SCRIPTED):
        return _scripted_backend(Path(model.removeprefix(SCRIPTED)))
    if settings.base_url is not None or settings.named_model is not None:
        return _remote_backend(settings)
    name = model or default_model()
    return _local_backend(
        settings, name, obtain, tell or (lambda line: None), keep_prefixes=keep_prefixes
    )


def default_model() -> str:
    """The model for machines where nothing is configured, by the memory that is free."""
    from qcode.engine.memory.available import available_bytes
    from qcode.engine.store.model_catalogue import DEFAULT_MODEL, SMALL_MODEL

    return SMALL_MODEL if available_bytes() < _SMALL_MEMORY_BYTES else DEFAULT_MODEL


def _scripted_backend(file: Path) -> Backend:
    from qcode.backends.scripted import ScriptedBackend

    return ScriptedBackend.from_file(file)


def _remote_backend(settings: Settings) -> Backend:
    from qcode.backends.connection import connect
    from qcode.backends.profile_store import ProfileStore
    from qcode.config.endpoints import chosen_endpoint

    store = ProfileStore(Locations.from_environment(os.environ).endpoint_profiles)
    return connect(chosen_endpoint(settings, os.environ), store)


def _local_backend(
    settings: Settings,
    name: str,
    obtain: Obtain | None,
    tell: Callable[[str], None],
    *,
    keep_prefixes: bool,
) -> Backend:
    from qcode.engine.store.model_catalogue import catalogue_entry
    from qcode.engine.store.model_store import ModelStore

    if importlib.util.find_spec("torch") is None:
        raise SettingsError(
            "The bundled engine is not installed.",
            f'Install it with: pip install "qcode[engine]"; {_other_ways(settings)}',
        )
    path = ModelStore(Locations.from_environment(os.environ).models).resolve(name)
    if path is None and catalogue_entry(name) is None:
        if name.endswith((".gguf", ".safetensors")):
            raise SettingsError(f"There is no file {name}.", "--model takes a name or a path.")
        raise SettingsError(
            f"There is no model {name!r} on this machine, and none of that name is known.",
            "`qcode model list` shows the known ones; for an endpoint's model add --base-url URL.",
        )
    if path is None:
        if obtain is None:
            raise SettingsError(
                f"The model {name} is not on this machine yet.",
                f"Fetch it once with: qcode model pull {name}; {_other_ways(settings)}",
            )
        if settings.model is None:
            for server in _found_servers():
                tell(f"{server.name} answers on this machine. To use it: qcode {server.flags}")
        path = obtain(name)
    from qcode.backends.local import LocalBackend
    from qcode.engine.options import KV_DTYPES, EngineOptions

    options = EngineOptions(
        context_window=settings.context_window,
        kv_dtype=KV_DTYPES[settings.kv_dtype],
        num_threads=settings.threads,
        speculation=settings.speculation,
        prefix_cache=_prefix_cache(settings, keep=keep_prefixes),
        packed_weights=packed_weights(settings),
    )
    return LocalBackend(path, name=name, options=options, tell=tell)


def _prefix_cache(settings: Settings, *, keep: bool) -> PrefixCacheOptions | None:
    from qcode.config.quantities import parse_size
    from qcode.engine.options import PrefixCacheOptions

    max_bytes = parse_size(settings.prefix_cache)
    if not max_bytes:
        return None
    directory = Locations.from_environment(os.environ).prefixes
    return PrefixCacheOptions(directory=directory, max_bytes=max_bytes, read_only=not keep)


def packed_weights(settings: Settings) -> PackedWeightsOptions | None:
    """Where the engine finds packed weights, and of which models it writes them by itself."""
    from qcode.engine.options import PackedWeightsOptions

    if settings.packed_weights == "off":
        return None
    locations = Locations.from_environment(os.environ)
    return PackedWeightsOptions(directory=locations.packed_weights, managed=locations.models)


def _found_servers() -> tuple[FoundServer, ...]:
    """Model servers that run on this machine, for a person who has set nothing."""
    from qcode.backends.connection import run_blocking
    from qcode.backends.discovery import find_local_servers

    return run_blocking(find_local_servers())


def _other_ways(settings: Settings) -> str:
    servers = _found_servers() if settings.model is None else ()
    if not servers:
        return "or name an endpoint: --base-url URL"
    found = servers[0]
    return f'or use {found.name}, which answers here: qcode run {found.flags} "PROMPT"'
