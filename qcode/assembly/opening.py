"""From what the command line asked for to an agent that is ready."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from qcode.assembly.agent import check_sandbox, create_agent, create_workspace
from qcode.assembly.backend import Obtain, create_backend
from qcode.config.locations import Locations
from qcode.config.options import RunOptions, SessionChoice
from qcode.protocol.errors import SessionError

if TYPE_CHECKING:
    from qcode.agent.agent import Agent
    from qcode.agent.session import Session
    from qcode.config.sources import LoadedSettings
    from qcode.protocol.backends import Backend
    from qcode.protocol.permissions import Approver


def open_agent(
    options: RunOptions,
    approver: Approver,
    *,
    obtain: Obtain | None = None,
    tell: Callable[[str], None],
    backend: Backend | None = None,
) -> Agent:
    """Everything a front end needs for what was asked on the command line. Blocks, so it is called
    in a thread where a person waits. `tell` gets lines for the person. A `backend` that an earlier
    conversation made is used again: a loaded model stays loaded.

    Raises `SandboxUnavailable`, `SettingsError`, `SessionError`, `BadInput` (the answer's schema
    is none), `ModelStoreError`, `EngineError`.
    """
    loaded = load_settings(options)
    for notice in loaded.notices:
        tell(notice)
    check_sandbox(loaded.settings)
    session = open_session(options.session, project=options.cwd)
    if backend is None:
        backend = create_backend(
            loaded.settings,
            obtain=obtain,
            tell=tell,
            keep_prefixes=options.session.kind != "ephemeral",
        )
        for notice in _engine_notices(backend):
            tell(notice)
    return create_agent(
        loaded.settings,
        approver=approver,
        workspace=create_workspace(options.cwd),
        session=session,
        backend=backend,
        tell=tell,
        bare=options.bare,
        answer_schema=options.answer_schema,
    )


def load_settings(options: RunOptions) -> LoadedSettings:
    from qcode.config import sources

    return sources.load_settings(
        options, environment=os.environ, locations=Locations.from_environment(os.environ)
    )


def open_session(choice: SessionChoice, *, project: Path) -> Session:
    from qcode.agent.session import Session
    from qcode.agent.session_store import SessionStore

    store = SessionStore(Locations.from_environment(os.environ).sessions, project)
    match choice.kind:
        case "new":
            return store.create()
        case "ephemeral":
            return Session(session_id="ephemeral")
        case "continue":
            latest = store.latest()
            if latest is None:
                raise SessionError("There is no earlier conversation in this folder.")
            return store.open(latest.id)
        case "resume":
            return store.open(choice.session_id)


def _engine_notices(backend: Backend) -> Iterator[str]:
    """What a person should know of how the model will run, or of what its server said."""
    if isinstance(backend, _Noticing):
        yield from backend.notices
    if not backend.model.local:
        return
    from qcode.engine.kernels import library

    if library.installed() is None:
        yield "The engine runs without compiled kernels, far slower: see qcode doctor."


@runtime_checkable
class _Noticing(Protocol):
    """A backend with lines for the person."""

    @property
    def notices(self) -> tuple[str, ...]: ...
