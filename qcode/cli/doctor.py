"""`qcode doctor`: what this machine has, and how to mend what it lacks."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Annotated, Literal

import typer

from qcode import __version__
from qcode.assembly import default_model, load_settings
from qcode.backends.base_url import is_loopback, normalise_base_url, without_secrets
from qcode.backends.discovery import FoundServer, find_local_servers
from qcode.cli.exit_codes import FAILED
from qcode.config.endpoints import named_endpoint
from qcode.config.locations import Locations
from qcode.config.named_models import NamedModel
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.engine.kernels.build import BuildFailed, find_compiler
from qcode.engine.memory.available import available_bytes
from qcode.engine.store.model_catalogue import catalogue_entry
from qcode.engine.store.model_store import ModelStore
from qcode.protocol.errors import SettingsError
from qcode.protocol.values import dataclass
from qcode.sandbox.terminal_text import printable

_ENGINE_PACKAGES = ("torch", "safetensors", "llguidance", "numpy")
_ENDPOINT_TIMEOUT_S = 5.0

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Check this machine, and say how to mend what is missing.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`fix` says what to do; it is there for every verdict but "ok"."""

    subject: str
    verdict: Literal["ok", "note", "missing"]
    text: str
    fix: str = ""


@command.command()
def doctor(
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Probe this endpoint instead: a URL, or the name of a named model."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="The model to ask there.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Its key: env:NAME, '!COMMAND' or the key; else OPENAI_API_KEY."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the endpoint's results as one JSON object.")
    ] = False,
) -> None:
    """Check this machine, and say how to mend what is missing.

    With --endpoint: ask a model there about a dozen small things, print what came of each, and
    keep what was found out for later runs.
    """
    if endpoint is not None:
        from qcode.cli.doctor_endpoint import probe

        raise typer.Exit(probe(endpoint, model=model, key=key, as_json=as_json))
    if model is not None or key is not None or as_json:
        raise typer.BadParameter("--model, --key and --json go with --endpoint.")
    locations = Locations.from_environment(os.environ)
    print(f"qcode {__version__}")
    worst = 0
    for finding in _findings(locations):
        print(printable(f"{finding.verdict:8}{finding.subject}: {finding.text}"))
        if finding.fix:
            print(printable(f"        fix: {finding.fix}"))
        if finding.verdict == "missing":
            worst = FAILED
    raise typer.Exit(worst)


def _findings(locations: Locations) -> Iterator[Finding]:
    yield check_python(sys.version_info[:3])
    yield Finding(subject="platform", verdict="ok", text=platform.platform())
    settings: Settings | None = None
    try:
        settings = load_settings(RunOptions(cwd=Path.cwd())).settings
        yield Finding(subject="settings", verdict="ok", text=str(locations.user_settings))
    except SettingsError as error:
        yield Finding(subject="settings", verdict="missing", text=error.message, fix=error.hint)
    if settings is not None and settings.base_url is not None:
        yield check_endpoint(settings.base_url, _key(settings))
    elif settings is not None and settings.named_model is not None:
        yield check_named_model(settings.named_model, f"models.{settings.model}")
    else:
        yield from _engine_findings(locations)
        yield from check_local_servers(asyncio.run(find_local_servers()))
    yield check_git(shutil.which)


def _engine_findings(locations: Locations) -> Iterator[Finding]:
    yield check_compiler()
    packages = check_packages(util.find_spec)
    yield packages
    if packages.verdict == "ok":
        yield _check_kernels()
    yield check_model(ModelStore(locations.models))
    yield check_disk(locations.models)
    yield check_memory(available_bytes())


def check_python(version: tuple[int, ...]) -> Finding:
    text = ".".join(str(part) for part in version) + f" ({sys.executable})"
    if version >= (3, 11):
        return Finding(subject="Python", verdict="ok", text=text)
    return Finding(
        subject="Python", verdict="missing", text=text, fix="Install Python 3.11 or newer."
    )


def check_compiler() -> Finding:
    try:
        compiler = find_compiler()
    except BuildFailed as error:
        return Finding(
            subject="compiler",
            verdict="note",
            text=f"{error}; only needed to build the engine's kernels",
            fix="Install g++ or clang, as with: apt install g++",
        )
    return Finding(subject="compiler", verdict="ok", text=compiler)


def check_packages(find: Callable[[str], object | None]) -> Finding:
    """`find` gives None for a package that is not installed."""
    absent = [name for name in _ENGINE_PACKAGES if find(name) is None]
    if absent:
        return Finding(
            subject="engine",
            verdict="missing",
            text=f"not installed: {', '.join(absent)}",
            fix='pip install "qcode[engine]", or set OPENAI_BASE_URL to use an endpoint',
        )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _ENGINE_PACKAGES)
    return Finding(subject="engine", verdict="ok", text=versions)


def _check_kernels() -> Finding:
    # Loads torch, so not before it is known to be there.
    library = import_module("qcode.engine.kernels.library")
    if library.installed() is not None:
        return Finding(subject="kernels", verdict="ok", text=str(library.status()))
    return Finding(
        subject="kernels",
        verdict="note",
        text=str(library.status()),
        fix="python -m qcode.engine.kernels.build",
    )


def check_model(store: ModelStore) -> Finding:
    name = default_model()
    installed = store.find(name)
    if installed is not None:
        return Finding(subject="model", verdict="ok", text=f"{name} at {installed.path}")
    return Finding(
        subject="model",
        verdict="missing",
        text=f"{name}, the default on this machine, is not here yet",
        fix=f"qcode model pull {name}",
    )


def check_disk(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    entry = catalogue_entry(default_model())
    needed = entry.size_bytes if entry is not None else 0
    text = f"{free / 1e9:.1f} GB free in {existing}"
    if free > needed:
        return Finding(subject="disk", verdict="ok", text=text)
    return Finding(
        subject="disk",
        verdict="note",
        text=f"{text}; a model needs {needed / 1e9:.1f} GB",
        fix="Free some space, or set QCODE_HOME to a folder on a larger disk.",
    )


def check_memory(available: int) -> Finding:
    text = f"{available / 1e9:.1f} GB available"
    entry = catalogue_entry(default_model())
    if entry is None or available > entry.memory_bytes:
        return Finding(subject="memory", verdict="ok", text=text)
    return Finding(
        subject="memory",
        verdict="note",
        text=f"{text}; {entry.name} wants {entry.memory_bytes / 1e9:.1f} GB",
        fix="Close other programs, or use an endpoint: OPENAI_BASE_URL.",
    )


def check_local_servers(servers: Iterable[FoundServer]) -> Iterator[Finding]:
    """None is no fault: they are another way to a model."""
    for server in servers:
        yield Finding(
            subject="local server",
            verdict="ok",
            text=f"{server.name} with {len(server.models)} models; to use it: qcode {server.flags}",
        )


def _key(settings: Settings) -> str | None:
    return None if settings.api_key is None else settings.api_key.get_secret_value()


def check_named_model(named: NamedModel, place: str) -> Finding:
    try:
        return check_endpoint(named.base_url, named_endpoint(named, place, os.environ).api_key)
    except SettingsError as error:
        fix = error.hint or "Set it, or correct the settings file."
        return Finding(subject="endpoint", verdict="missing", text=error.message, fix=fix)


def check_endpoint(base_url: str, key: str | None) -> Finding:
    """Asks the endpoint for its list of models, the request every such server answers."""
    try:
        url = normalise_base_url(base_url)
    except SettingsError as error:
        return Finding(
            subject="endpoint", verdict="missing", text=error.message, fix=error.hint or ""
        )
    shown = without_secrets(url)
    request = urllib.request.Request(str(url.at(f"{url.path}/models")))  # http or https
    if (authorization := url.authorization(key)) is not None:
        request.add_header("Authorization", authorization)
    try:
        with _opener(is_loopback(url)).open(request, timeout=_ENDPOINT_TIMEOUT_S) as response:
            return Finding(
                subject="endpoint", verdict="ok", text=f"{shown} answers {response.status}"
            )
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(
                subject="endpoint",
                verdict="missing",
                text=f"{shown} refuses the key ({error.code})",
                fix="Set OPENAI_API_KEY to a key of this endpoint.",
            )
        return Finding(
            subject="endpoint",
            verdict="note",
            text=f"{shown}/models answers {error.code}",
            fix="Check that the URL ends where /chat/completions would follow, as in .../v1.",
        )
    except OSError as error:
        return Finding(
            subject="endpoint",
            verdict="missing",
            text=f"{shown} does not answer: {getattr(error, 'reason', error)}",
            fix="Start the server, correct OPENAI_BASE_URL, or unset it to use the own engine.",
        )


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place: it is reported instead."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def _opener(local: bool) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_StayHere()]
    if local:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def check_git(which: Callable[[str], str | None]) -> Finding:
    found = which("git")
    if found is not None:
        return Finding(subject="git", verdict="ok", text=found)
    return Finding(
        subject="git",
        verdict="note",
        text="not found; qcode works without, but cannot tell what is under version control",
        fix="Install git.",
    )
