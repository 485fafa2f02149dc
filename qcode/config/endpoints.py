"""Which endpoint the settings mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qcode.backends.connection import Endpoint
from qcode.backends.endpoint_profile import EndpointProfile
from qcode.config.named_models import Compatibility, NamedModel, resolve_secret
from qcode.config.settings import Settings
from qcode.protocol.errors import SettingsError
from qcode.protocol.sampling import SamplingParams


def chosen_endpoint(settings: Settings, environment: Mapping[str, str]) -> Endpoint:
    """The named model that is chosen, else what `base_url` and `api_key` say. Runs the command for
    a key, if that is how it is set. Raises SettingsError."""
    named = settings.named_model
    if named is not None:
        endpoint = named_endpoint(named, f"models.{settings.model}", environment)
        return replace(endpoint, context_window=settings.context_window)
    if settings.base_url is None:
        raise SettingsError("No endpoint is set.", "Name one with --base-url URL.")
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return Endpoint(
        base_url=settings.base_url,
        model=settings.model,
        api_key=key,
        context_window=settings.context_window,
    )


def named_endpoint(named: NamedModel, place: str, environment: Mapping[str, str]) -> Endpoint:
    """`place` says where the table stands, for errors. Raises SettingsError."""
    key = named.api_key
    headers = {
        name: resolve_secret(
            value.get_secret_value(), place=f"{place}.headers.{name}", environment=environment
        )
        for name, value in named.headers.items()
    }
    return Endpoint(
        base_url=named.base_url,
        model=named.model,
        api_key=None
        if key is None
        else resolve_secret(
            key.get_secret_value(), place=f"{place}.api_key", environment=environment
        ),
        headers=headers,
        extra_body=named.extra_body,
        sampling=SamplingParams(**named.sampling.model_dump()),
        context_window=named.context_window,
        strength=named.strength,
        timeouts=(named.first_token_timeout, named.idle_timeout),
        amend=lambda profile: _amended(profile, named.compatibility),
    )


def _amended(profile: EndpointProfile, compatibility: Compatibility) -> EndpointProfile:
    set_here = compatibility.model_dump(exclude_none=True)
    fenced_calls = set_here.pop("fenced_calls", profile.fenced_calls)
    if "omit" in set_here:
        set_here["omitted"] = frozenset(set_here.pop("omit"))
    dialect = replace(profile.dialect, **set_here)
    return replace(profile, fenced_calls=fenced_calls, dialect=dialect)
