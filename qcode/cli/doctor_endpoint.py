"""`qcode doctor --endpoint`: what a model at an endpoint can do, as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path

from qcode.assembly import load_settings
from qcode.backends.connection import Endpoint
from qcode.backends.endpoint_probes import EndpointProbes, ProbeResult
from qcode.backends.profile_store import ProfileStore
from qcode.cli.exit_codes import FAILED, OK
from qcode.config.endpoints import named_endpoint
from qcode.config.locations import Locations
from qcode.config.named_models import resolve_secret
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.protocol.errors import SettingsError
from qcode.sandbox.terminal_text import printable

_NAME_WIDTH = 16
_VERDICT_WIDTH = 9


def probe(endpoint: str, *, model: str | None, key: str | None, as_json: bool) -> int:
    """Asks, prints, keeps the profile; returns the exit code: 1 where something is missing.
    Raises SettingsError, also for an impossible URL."""
    settings = load_settings(RunOptions(cwd=Path.cwd())).settings
    chosen = _chosen(settings, endpoint, model, key)
    show = _no_line if as_json else _print_line
    probes, results = asyncio.run(_probe(chosen, show))
    kept: Path | None = None
    if any(result.probe == "stream" and result.verdict in ("ok", "note") for result in results):
        store = ProfileStore(Locations.from_environment(os.environ).endpoint_profiles)
        kept = store.save(chosen.base_url, probes.model, probes.profile)
    worst = FAILED if any(_fails(result) for result in results) else OK
    if as_json:
        print(_as_json(probes, results, kept))
    elif kept is not None:
        print(printable(f"\nKept for later runs: {kept}"))
    return worst


def _chosen(settings: Settings, endpoint: str, model: str | None, key: str | None) -> Endpoint:
    """A name of the settings goes before a host of that name."""
    if (named := settings.models.get(endpoint)) is not None:
        chosen = named_endpoint(named, f"models.{endpoint}", os.environ)
    elif "://" not in endpoint and ":" not in endpoint and "." not in endpoint:
        known = ", ".join(settings.models) or "none"
        raise SettingsError(
            f"--endpoint: {endpoint!r} is neither a URL nor a named model",
            f"Named models: {known}. A URL looks like http://127.0.0.1:8000/v1.",
        )
    else:
        api_key = settings.api_key
        # A key belongs to the endpoint it was set for; one from the environment to this command.
        own = settings.base_url is None or settings.base_url == endpoint.rstrip("/")
        chosen = Endpoint(
            base_url=endpoint,
            api_key=api_key.get_secret_value() if api_key is not None and own else None,
        )
    if key is not None:
        api_key_text = resolve_secret(key, place="--key", environment=os.environ)
        chosen = replace(chosen, api_key=api_key_text)
    return replace(chosen, model=model or chosen.model)


async def _probe(
    endpoint: Endpoint, show: Callable[[ProbeResult], None]
) -> tuple[EndpointProbes, list[ProbeResult]]:
    opened = endpoint.open()
    try:
        probes = EndpointProbes(opened, endpoint.model)
        results: list[ProbeResult] = []
        async with aclosing(probes.run()) as stream:
            async for result in stream:
                results.append(result)
                show(result)
        return probes, results
    finally:
        await opened.aclose()


def _fails(result: ProbeResult) -> bool:
    return result.verdict == "missing"


def _no_line(result: ProbeResult) -> None:
    pass


def _print_line(result: ProbeResult) -> None:
    line = f"{result.verdict:{_VERDICT_WIDTH}}{result.probe:{_NAME_WIDTH}}{result.text}"
    print(printable(line))
    if result.fix:
        print(printable(f"{'':{_VERDICT_WIDTH + _NAME_WIDTH}}fix: {result.fix}"))
    sys.stdout.flush()


def _as_json(probes: EndpointProbes, results: list[ProbeResult], kept: Path | None) -> str:
    profile = asdict(probes.profile)
    profile["dialect"]["omitted"] = sorted(probes.profile.dialect.omitted)
    return json.dumps(
        {
            "base_url": probes.shown_url,
            "model": probes.model,
            "server": probes.profile.server,
            "results": [asdict(result) for result in results],
            "profile": profile,
            "kept": None if kept is None else str(kept),
        },
        indent=2,
    )
