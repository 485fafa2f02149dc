"""Where each value comes from. Strongest first: flags, environment, the project's file if its
folder is trusted, the user's file, defaults. Rules add up over all sources instead."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from qcode.agent.permission_rules import parse_rule
from qcode.config.locations import Locations, project_settings
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.config.trust import is_trusted
from qcode.protocol.errors import SettingsError

RULE_SETTINGS = ("allow", "ask", "deny")
DEFAULT_ORIGIN = "default"
LOCAL = "local"

# A cloned project must not be able to redirect requests, take keys or loosen permissions, even
# when its folder is trusted for ordinary settings.
NEVER_FROM_PROJECT = frozenset({"base_url", "api_key", "allow", "verify", "system_prompt"})

_OPENAI_VARIABLES = {
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
    "OPENAI_MODEL": "model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """`origins` holds, for each setting that is not a default, where its value was found."""

    settings: Settings
    origins: Mapping[str, str]
    notices: tuple[str, ...] = ()

    def origin(self, name: str) -> str:
        return self.origins.get(name, DEFAULT_ORIGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Values of one source. `place` names where a key of it stands, for people."""

    values: dict[str, object]
    place: Callable[[str], str]


def load_settings(
    options: RunOptions, *, environment: Mapping[str, str], locations: Locations
) -> LoadedSettings:
    """Raises `SettingsError` naming the source and the key of the first bad value."""
    if options.bare:
        return _loaded([_flags(options.flags), _environment(environment)])
    project_file = project_settings(options.cwd)
    trusted = (
        options.trust
        or environment.get("QCODE_TRUST") in ("1", "true")
        or is_trusted(options.cwd, locations)
    )
    notices: list[str] = []
    sources = [_flags(options.flags), _environment(environment)]
    # The user's own home may be the working directory: its file is then no project's.
    if project_file.exists() and project_file.resolve() != locations.user_settings.resolve():
        if trusted:
            sources.append(_project(project_file))
        else:
            notices.append(
                f"{project_file} is ignored: this folder is not trusted. Read it, then run "
                "`qcode settings trust`, or give --trust for one run."
            )
    if locations.user_settings.exists():
        sources.append(_user(locations.user_settings))
    return _loaded(sources, notices)


def _loaded(sources: list[_Source], notices: Sequence[str] = ()) -> LoadedSettings:
    for source in sources:
        _check(source)
    values, origins = _merge(sources)
    return LoadedSettings(
        settings=Settings.model_validate(values),
        origins=origins,
        notices=tuple(notices),
    )


def _flags(flags: Mapping[str, object]) -> _Source:
    return _Source(values=dict(flags), place=lambda key: "--" + key.replace("_", "-"))


def _environment(environment: Mapping[str, str]) -> _Source:
    """An empty variable counts as unset."""
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    for key in Settings.model_fields:
        name = f"QCODE_{key.upper()}"
        if text := environment.get(name):
            values[key] = _lines(text) if key in RULE_SETTINGS else text
            names[key] = name
    for name, key in _OPENAI_VARIABLES.items():
        if key not in values and (text := environment.get(name)):
            values[key] = text
            names[key] = name
    return _Source(values=values, place=lambda key: names.get(key, key))


def _lines(text: str) -> list[str]:
    """Rules hold commas and spaces themselves, so a variable carries one rule a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _user(file: Path) -> _Source:
    source = _file(file)
    if source.values.get("approval_mode") == "yolo":
        raise SettingsError(
            f"{source.place('approval_mode')}: yolo cannot be made the standard",
            "Type --yolo where you want it.",
        )
    if "api_key" in source.values and file.stat().st_mode & 0o077:
        raise SettingsError(
            f"{source.place('api_key')}: others can read this file", f"chmod 600 {file}"
        )
    return source


def _project(file: Path) -> _Source:
    source = _file(file)
    for key, value in source.values.items():
        if key in NEVER_FROM_PROJECT:
            raise SettingsError(
                f"{source.place(key)}: a project may not set {key}",
                "Move it to your own settings file, or give it as a flag.",
            )
        if key == "approval_mode" and value != "plan":
            raise SettingsError(
                f"{source.place(key)}: a project may only tighten the mode, to plan"
            )
    return source


def _file(file: Path) -> _Source:
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read as TOML: {error}") from error

    def place(key: str) -> str:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.split("=")[0].strip().strip("\"'[]") == key:
                return f"{file}:{number}: {key}"
        return f"{file}: {key}"

    return _Source(values=values, place=place)


def _check(source: _Source) -> None:
    try:
        Settings.model_validate(source.values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, Settings.model_fields, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`qcode settings` lists all of them."
            raise SettingsError(f"{source.place(key)}: there is no such setting", hint) from None
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{source.place(key)}: {message}") from None
    for key in RULE_SETTINGS:
        rules = source.values.get(key, ())
        assert isinstance(rules, (list, tuple))
        for rule in rules:
            try:
                parse_rule(rule)
            except SettingsError as error:
                raise SettingsError(f"{source.place(key)}: {error.message}", error.hint) from error


def _merge(sources: list[_Source]) -> tuple[dict[str, object], dict[str, str]]:
    endpoints = [source.values["base_url"] for source in sources if "base_url" in source.values]
    has_endpoint = bool(endpoints) and endpoints[0] != LOCAL
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for source in sources:
        for key, value in source.values.items():
            place = source.place(key)
            if key in RULE_SETTINGS and isinstance(value, (list, tuple)):
                earlier = values.get(key, ())
                assert isinstance(earlier, tuple)
                values[key] = (*earlier, *value)
                origins[key] = f"{origins[key]}, {place}" if key in origins else place
            elif place == "OPENAI_MODEL" and not has_endpoint:
                continue  # a model named for an endpoint says nothing about the bundled engine
            elif key not in values:
                values[key] = value
                origins[key] = place
    if not has_endpoint:
        values["base_url"] = None
    return values, origins
