"""Where each value comes from. Strongest first: flags, environment, the project's file if its
folder is trusted, the user's file, defaults. Rules add up over all sources instead."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from qcode.agent.permission_rules import parse_rule
from qcode.config.locations import Locations, project_settings
from qcode.config.named_models import NamedModel
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.config.trust import is_trusted
from qcode.protocol.errors import SettingsError
from qcode.protocol.values import dataclass

RULE_SETTINGS = ("allow", "ask", "deny")
DEFAULT_ORIGIN = "default"
LOCAL = "local"

# A cloned project must not be able to redirect requests, take keys or loosen permissions, even
# when its folder is trusted for ordinary settings.
NEVER_FROM_PROJECT = frozenset(
    {"base_url", "api_key", "models", "allow", "verify", "system_prompt"}
)

_OF_THE_RUN = 2  # the first sources: flags and environment, given for this run
_NAMED_SETTINGS = {  # what a named model sets, by the setting it stands before
    "context_window": ("context_window",),
    "max_answer_tokens": ("max_output_tokens",),
    "temperature": ("sampling", "temperature"),
    "top_p": ("sampling", "top_p"),
    "seed": ("sampling", "seed"),
}

_SECRETS = {"api_key", "headers"}

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
        if key == "models":
            continue  # tables have no place in a variable
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
    key = next((key for key in ("api_key", "models") if _holds_secrets(source.values, key)), None)
    if key is not None and file.stat().st_mode & 0o077:
        raise SettingsError(f"{source.place(key)}: others can read this file", f"chmod 600 {file}")
    return source


def _holds_secrets(values: Mapping[str, object], key: str) -> bool:
    """Commands count as secrets: who could change one could run it."""
    if key != "models":
        return key in values
    models = values.get(key)
    tables = models.values() if isinstance(models, dict) else ()
    return any(isinstance(table, dict) and table.keys() & _SECRETS for table in tables)


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
            named = line.split("=")[0].strip().strip("\"'[]")
            if named == key or named.startswith(f"{key}."):
                return f"{file}:{number}: {key}"
        return f"{file}: {key}"

    return _Source(values=values, place=place)


def _check(source: _Source) -> None:
    try:
        Settings.model_validate(source.values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key, *inner = (str(part) for part in first["loc"])
        place = ".".join([source.place(key), *(part for part in inner if not part.isdigit())])
        if first["type"] == "extra_forbidden":
            known = NamedModel.model_fields if inner else Settings.model_fields
            near = difflib.get_close_matches([key, *inner][-1], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`qcode settings` lists all of them."
            raise SettingsError(f"{place}: there is no such setting", hint) from None
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{place}: {message}") from None
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
    _choose_named_model(sources, values, origins)
    return values, origins


def _choose_named_model(
    sources: list[_Source], values: dict[str, object], origins: dict[str, str]
) -> None:
    """A model's name that stands for a table brings its endpoint along, and what else the table
    sets goes before the settings files. A base URL given for this run, with the name or more
    strongly, says that the name is the server's own."""
    models = values.get("models")
    name = values.get("model")
    if not isinstance(models, dict) or not isinstance(name, str) or name not in models:
        return
    url_rank = _rank(sources, "base_url")
    if url_rank < _OF_THE_RUN and url_rank <= _rank(sources, "model"):
        values["models"] = {other: table for other, table in models.items() if other != name}
        return
    values["base_url"] = None
    origins.pop("base_url", None)
    for setting, path in _NAMED_SETTINGS.items():
        found = models[name]
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None and _rank(sources, setting) >= _OF_THE_RUN:
            values[setting] = found
            origins[setting] = f"{origins['models']}.{name}"


def _rank(sources: list[_Source], key: str) -> int:
    """The strongest source that holds a value: 0 for the flags."""
    return next((n for n, source in enumerate(sources) if key in source.values), len(sources))
