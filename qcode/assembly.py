"""The composition root: settings in, agent out. Nothing else names concrete classes, and each is
imported only when it is chosen, so that a remote endpoint never loads torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from qcode.config.locations import Locations
from qcode.config.options import RunOptions, SessionChoice
from qcode.protocol.errors import SessionError, SettingsError

if TYPE_CHECKING:
    from qcode.agent.agent import Agent
    from qcode.agent.profile import Profile
    from qcode.agent.session import Session
    from qcode.agent.turn import TurnStrategy
    from qcode.backends.discovery import FoundServer
    from qcode.config.settings import Settings
    from qcode.config.sources import LoadedSettings
    from qcode.protocol.backends import Backend
    from qcode.protocol.permissions import Approver
    from qcode.protocol.tools import Tool
    from qcode.sandbox.workspace import Workspace

Obtain = Callable[[str], Path]
"""Fetches a named model and returns its path; may block for as long as a download takes."""

SCRIPTED = "scripted:"
_SMALL_MEMORY_BYTES = 4 << 30


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

    Raises `SettingsError`, `SessionError`, `BadInput` (the answer's schema is none),
    `ModelStoreError`, `EngineError`.
    """
    loaded = load_settings(options)
    for notice in loaded.notices:
        tell(notice)
    session = open_session(options.session, project=options.cwd)
    if backend is None:
        backend = create_backend(loaded.settings, obtain=obtain, tell=tell)
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


def create_workspace(root: Path) -> Workspace:
    from qcode.sandbox.workspace import LocalWorkspace

    return LocalWorkspace(root)


def create_backend(
    settings: Settings,
    *,
    obtain: Obtain | None = None,
    tell: Callable[[str], None] | None = None,
) -> Backend:
    """`scripted:FILE` and model files name themselves; else an endpoint, if one is set; else a
    model of this machine. `obtain` is asked for a named model that is not here yet."""
    model = settings.model
    if model is not None and model.startswith(SCRIPTED):
        return _scripted_backend(Path(model.removeprefix(SCRIPTED)))
    if settings.base_url is not None or settings.named_model is not None:
        return _remote_backend(settings)
    name = model or default_model()
    return _local_backend(settings, name, obtain, tell or _ignore)


def create_tools(
    settings: Settings, workspace: Workspace, profile: Profile = "full"
) -> tuple[Tool[Any], ...]:
    """The tools of one session, which share what they know of the files read in it. Raises
    `SettingsError` for a tool that does not exist."""
    from qcode.agent.profile import offered
    from qcode.tools.edit import Edit
    from qcode.tools.file_records import FileRecords
    from qcode.tools.glob import Glob
    from qcode.tools.grep_search import GrepSearch
    from qcode.tools.list_directory import ListDirectory
    from qcode.tools.read_file import ReadFile
    from qcode.tools.run_shell_command import RunShellCommand
    from qcode.tools.selection import select_tools
    from qcode.tools.todo_write import TodoWrite
    from qcode.tools.write_file import WriteFile

    records = FileRecords()
    spilled = Locations.from_environment(os.environ).spilled_output
    tools = (
        ReadFile(workspace, records, also_inside=(spilled,)),
        WriteFile(workspace, records),
        Edit(workspace, records),
        ListDirectory(workspace),
        Glob(workspace),
        GrepSearch(workspace, also_inside=(spilled,)),
        RunShellCommand(
            workspace, default_timeout_s=settings.command_timeout, spill_directory=spilled
        ),
        TodoWrite(),
    )
    names = tuple(tool.name for tool in tools)
    chosen = settings.tools
    if chosen is None:
        chosen = offered(names, profile, settings.edit_format)
    return select_tools(tools, chosen)


def default_model() -> str:
    """The model for machines where nothing is configured, by the memory that is free."""
    from qcode.engine.memory.available import available_bytes
    from qcode.engine.store.model_catalogue import DEFAULT_MODEL, SMALL_MODEL

    return SMALL_MODEL if available_bytes() < _SMALL_MEMORY_BYTES else DEFAULT_MODEL


def create_agent(
    settings: Settings,
    *,
    approver: Approver,
    workspace: Workspace,
    session: Session,
    backend: Backend | None = None,
    tell: Callable[[str], None] | None = None,
    bare: bool = False,
    answer_schema: Mapping[str, object] | None = None,
    shown_cwd: Path | None = None,
) -> Agent:
    """`backend` is created from the settings where none is given. `tell` gets lines for the person
    about instruction files that were left out. `bare` leaves them all unread. `answer_schema` is a
    JSON Schema that the closing answer of each turn must obey. `shown_cwd` is what the model is
    told of where it works.

    Raises `SettingsError`, `ModelStoreError`, `EngineError`.
    """
    from qcode.agent.agent import Agent
    from qcode.agent.answer_form import AnswerForm
    from qcode.agent.permissions import PermissionPolicy
    from qcode.agent.verification import VerifyCommand
    from qcode.config.budgets import turn_limits
    from qcode.protocol.sampling import SamplingParams

    if backend is None:
        backend = create_backend(settings)
    root = workspace.root
    profile = _profile(settings, backend)
    tools = create_tools(settings, workspace, profile)
    if settings.verify is not None and "run_shell_command" not in {tool.name for tool in tools}:
        raise SettingsError(
            "verify needs the tool run_shell_command, which tools leaves out.",
            "Add Bash to tools; what the model may run is decided by allow and deny.",
        )
    verify = None
    if settings.verify is not None:
        verify = VerifyCommand(command=settings.verify, resample=settings.resample)
    strategy_for = _leading(settings, profile, backend, root)
    if settings.best_of > 1:
        if verify is None:
            raise SettingsError(
                "best_of needs a command that tells which attempt is good.",
                'Name it with --verify, as in --verify "pytest -q".',
            )
        verify = replace(verify, max_attempts=1)  # the attempts have had their tries
        strategy_for = _best_of(settings, root, session.id, backend, approver, bare=bare)
    form = None if answer_schema is None else AnswerForm(answer_schema)
    return Agent(
        backend=backend,
        tools=tools,
        policy=PermissionPolicy(
            mode=settings.approval_mode,
            workspace_root=root,
            allow=settings.allow,
            ask=settings.ask,
            deny=settings.deny,
        ),
        approver=approver,
        session=session,
        system_prompt=_system_prompt(
            settings,
            profile,
            root,
            None if bare else tell or _ignore,
            None if form is None else form.instruction,
            shown_cwd,
        ),
        limits=turn_limits(settings, backend.model),
        verify=verify,
        answer_form=form,
        strategy_for=strategy_for,
        sampling=SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            max_tokens=settings.max_answer_tokens,
        ),
        spill_directory=Locations.from_environment(os.environ).spilled_output,
    )


def _ignore(line: str) -> None:
    pass


def _profile(settings: Settings, backend: Backend) -> Profile:
    from qcode.agent.profile import choose_profile

    return choose_profile(backend.model) if settings.profile == "auto" else settings.profile


def _system_prompt(
    settings: Settings,
    profile: Profile,
    root: Path,
    tell: Callable[[str], None] | None,
    form: str | None,
    shown_cwd: Path | None,
) -> str:
    """A person who starts qcode in a folder means its instructions to be read: they are text that
    asks, and permissions guard what they ask for. What could run by itself needs trust. Without
    `tell` none is read. `form` says how the last message must look."""
    from datetime import UTC, datetime

    from qcode.agent.instructions import Instructions, load_instructions
    from qcode.agent.system_prompt import build_system_prompt, gather_facts

    facts = gather_facts(root, datetime.now(UTC).astimezone().date())
    instructions = Instructions()
    if tell is not None:
        user_directory = Locations.from_environment(os.environ).config
        instructions = load_instructions(root, user_directory=user_directory)
        for note in instructions.notes:
            tell(note)
    return build_system_prompt(
        profile=profile,
        facts=facts if shown_cwd is None else replace(facts, cwd=shown_cwd),
        instructions=instructions.text,
        own=settings.system_prompt,
        added="\n\n".join(part for part in (settings.append_system_prompt, form) if part),
    )


def _leading(
    settings: Settings, profile: Profile, backend: Backend, root: Path
) -> Callable[[str], TurnStrategy]:
    from qcode.agent.leading import Leading

    leading = Leading(
        repair=settings.repair,
        failure_context=settings.failure_context,
        run_tests=settings.run_tests,
        resample=settings.resample,
        verify=settings.verify,
        profile=profile,
        own_tools=settings.tools is not None,
    )
    return leading.strategies(lambda: backend.model, root)


def _best_of(
    settings: Settings,
    root: Path,
    session_id: str,
    backend: Backend,
    approver: Approver,
    *,
    bare: bool,
) -> Callable[[str], TurnStrategy]:
    """Attempts are told the same folder, `.`, so that the engine reads their prompts once."""
    from qcode.agent.best_of import BestOf
    from qcode.agent.resampling import attempt_sampling
    from qcode.agent.session import Session

    def attempt_agent(folder: Path, number: int) -> Agent:
        sampling = attempt_sampling(settings.temperature, settings.seed, number)
        own = {"best_of": 1, "temperature": sampling.temperature, "seed": sampling.seed}
        return create_agent(
            settings.model_copy(update=own),
            approver=approver,
            workspace=create_workspace(folder),
            session=Session(session_id=f"{session_id}-{number}"),
            backend=backend,
            bare=bare,
            shown_cwd=Path(),
        )

    strategy = BestOf(
        root=root,
        attempts=settings.best_of,
        attempt_agent=attempt_agent,
        patches=Locations.from_environment(os.environ).patches,
    )
    return lambda prompt: strategy


def _scripted_backend(file: Path) -> Backend:
    from qcode.backends.scripted import ScriptedBackend

    return ScriptedBackend.from_file(file)


def _remote_backend(settings: Settings) -> Backend:
    from qcode.backends.connection import connect
    from qcode.backends.profile_store import ProfileStore
    from qcode.config.endpoints import chosen_endpoint

    store = ProfileStore(Locations.from_environment(os.environ).endpoint_profiles)
    return connect(chosen_endpoint(settings, os.environ), store)


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


def _local_backend(
    settings: Settings, name: str, obtain: Obtain | None, tell: Callable[[str], None]
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
    )
    return LocalBackend(path, name=name, options=options)
