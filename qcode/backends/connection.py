"""From what is set about an endpoint, and what is known and asked of it, to its backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from qcode.backends.base_url import without_user
from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.http import LOCAL_TIMERS, ChatEndpoint, RequestFailed, Timers
from qcode.backends.openai_compatible import OpenAICompatibleBackend
from qcode.backends.profile_store import ProfileStore
from qcode.backends.server_facts import ServerFacts, ask_server
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.values import dataclass

logger = logging.getLogger(__name__)

ASSUMED_WINDOW = 32_768
_SMALL_WINDOW = 16_384
# A server on this machine may have to load the model before it knows, which the first request
# would wait for as well; of one elsewhere only a few answers are awaited.
_LOCAL_ASK_S = 60.0
_REMOTE_ASK_S = 4.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`amend` puts what is set in the place of what was found out. `timeouts` are the waits for
    the first token and between two events in seconds, None for the usual ones."""

    base_url: str
    model: str | None = None
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, object] = field(default_factory=dict)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    context_window: int | None = None
    strength: Literal["small", "large"] = "large"
    timeouts: tuple[float | None, float | None] = (None, None)
    amend: Callable[[EndpointProfile], EndpointProfile] = field(default=lambda profile: profile)

    def open(self, timers: Timers | None = None) -> ChatEndpoint:
        return ChatEndpoint(
            self.base_url, api_key=self.api_key, headers=self.headers, timers=timers
        )

    def timers(self, *, is_local: bool) -> Timers:
        first_token_s, idle_s = self.timeouts
        usual = LOCAL_TIMERS if is_local else Timers()
        return replace(
            usual,
            first_token_s=first_token_s or usual.first_token_s,
            idle_s=idle_s or usual.idle_s,
        )


def connect(endpoint: Endpoint, store: ProfileStore) -> OpenAICompatibleBackend:
    """Asks the server which model it serves and with which window, unless that is known already,
    and keeps the answer. Blocks; a server that does not answer is left for the first request to
    report. Raises SettingsError for an impossible URL, key or header."""
    asker = endpoint.open()
    is_local = asker.is_local
    known = store.load(endpoint.base_url, endpoint.model) if endpoint.model else None
    facts: ServerFacts | None = None
    if is_local or not _is_fresh(known):
        facts = run_blocking(_ask(asker, endpoint.model))
    model = endpoint.model or (facts.model if facts else None)
    if known is None and model is not None:
        known = store.load(endpoint.base_url, model)
    profile = _updated(known or EndpointProfile(), facts)
    if model is not None and facts is not None and profile != known:
        store.save(endpoint.base_url, model, profile)
    window, notices = _window(endpoint, profile, facts)
    amended = endpoint.amend(profile)

    def keep(name: str, learned: EndpointProfile) -> None:
        store.save(endpoint.base_url, name, learned)

    return OpenAICompatibleBackend(
        base_url=endpoint.base_url,
        model=model,
        api_key=endpoint.api_key,
        headers=endpoint.headers,
        context_window=window,
        strength=endpoint.strength,
        extra_body=endpoint.extra_body,
        sampling=endpoint.sampling,
        profile=amended,
        on_learned=keep if amended == profile else None,  # what is set is not what was found out
        notices=tuple(notices),
        timers=endpoint.timers(is_local=is_local),
    )


async def _ask(asker: ChatEndpoint, model: str | None) -> ServerFacts | None:
    try:
        async with asyncio.timeout(_LOCAL_ASK_S if asker.is_local else _REMOTE_ASK_S):
            return await ask_server(asker, model)
    except (RequestFailed, TimeoutError) as error:
        logger.info("%s says nothing of its models: %s", asker.shown_url, error)
        return None
    finally:
        await asker.aclose()


def _is_fresh(profile: EndpointProfile | None) -> bool:
    """Servers elsewhere are asked once a day."""
    if profile is None or profile.context_window is None:
        return False
    return profile.checked == datetime.now(UTC).date().isoformat()


def _updated(profile: EndpointProfile, facts: ServerFacts | None) -> EndpointProfile:
    if facts is None:
        return profile
    return replace(
        profile,
        context_window=facts.context_window or profile.context_window,
        server=facts.server or profile.server,
    )


def _window(
    endpoint: Endpoint, profile: EndpointProfile, facts: ServerFacts | None
) -> tuple[int | None, list[str]]:
    """The window to work with, and what a person should know about it."""
    stated = profile.context_window
    chosen = endpoint.context_window
    if stated is None and chosen is None and facts is not None:
        return ASSUMED_WINDOW, [
            f"{without_user(endpoint.base_url)} does not say the context window of {facts.model}: "
            f"{ASSUMED_WINDOW:,} tokens are assumed. Set it with --context or context_window."
        ]
    window = min((each for each in (stated, chosen) if each is not None), default=None)
    return window, list(_window_notices(window, chosen, facts))


def _window_notices(
    window: int | None, chosen: int | None, facts: ServerFacts | None
) -> Iterator[str]:
    if window is None or facts is None or facts.context_window is None:
        return
    advice = f"; {facts.window_advice}" if facts.window_advice else ""
    served = f"{facts.server or 'The server'} serves {facts.model} with a window of {window:,}"
    if chosen is not None and chosen > window:
        yield f"{served} tokens, less than the {chosen:,} that are set{advice}."
    elif window < _SMALL_WINDOW and chosen is None:
        yield f"{served} tokens, little for work on code{advice}."


def run_blocking(coroutine: Coroutine[object, object, _T]) -> _T:
    """Runs it to its end on a loop of its own, wherever it is called: the caller may be inside
    another loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
