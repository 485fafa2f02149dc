"""An agent from its settings: tools, permissions, prompt, and what leads its turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcode.assembly.backend import create_backend
from qcode.config.locations import Locations
from qcode.protocol.errors import SandboxUnavailable, SettingsError

if TYPE_CHECKING:
    from qcode.agent.agent import Agent
    from qcode.agent.profile import Profile
    from qcode.agent.session import Session
    from qcode.agent.turn import TurnStrategy
    from qcode.config.settings import Settings
    from qcode.protocol.backends import Backend
    from qcode.protocol.permissions import Approver
    from qcode.protocol.tools import Tool
    from qcode.sandbox.workspace import Workspace


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

    Raises `SandboxUnavailable`, `SettingsError`, `ModelStoreError`, `EngineError`.
    """
    from qcode.agent.agent import Agent
    from qcode.agent.answer_form import AnswerForm
    from qcode.agent.permissions import PermissionPolicy
    from qcode.agent.verification import VerifyCommand
    from qcode.config.budgets import turn_limits
    from qcode.protocol.sampling import SamplingParams

    check_sandbox(settings)
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
    system_prompt, basis = _system_prompt(
        settings,
        profile,
        root,
        None if bare else tell or _ignore,
        None if form is None else form.instruction,
        shown_cwd,
    )
    return Agent(
        backend=backend,
        tools=tools,
        unoffered=_unoffered(settings, backend),
        policy=PermissionPolicy(
            mode=settings.approval_mode,
            workspace_root=root,
            allow=settings.allow,
            ask=settings.ask,
            deny=settings.deny,
        ),
        approver=approver,
        session=session,
        system_prompt=system_prompt,
        prompt_basis=basis,
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


def check_sandbox(settings: Settings) -> None:
    """Raises `SandboxUnavailable` where one is required."""
    if settings.sandbox == "require":
        raise SandboxUnavailable(
            "A sandbox for commands is required, and this version has none.",
            "Leave out --sandbox require; what may run unasked is decided by allow and deny.",
        )


def create_workspace(root: Path) -> Workspace:
    from qcode.sandbox.workspace import LocalWorkspace

    return LocalWorkspace(root)


def create_tools(
    settings: Settings, workspace: Workspace, profile: Profile = "full"
) -> tuple[Tool[Any], ...]:
    """The tools of one session, which share what they know of the files read in it. Raises
    `SettingsError` for a tool that does not exist."""
    from qcode.agent.profile import chosen_tools
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
        chosen = chosen_tools(names, profile)
    return select_tools(tools, chosen)


def _profile(settings: Settings, backend: Backend) -> Profile:
    from qcode.agent.profile import choose_profile

    return choose_profile(backend.model) if settings.profile == "auto" else settings.profile


def _unoffered(settings: Settings, backend: Backend) -> frozenset[str]:
    """Tools that the person has chosen are all offered."""
    from qcode.agent.profile import choose_edit_format, unoffered_tools

    if settings.tools is not None:
        return frozenset()
    chosen = settings.edit_format
    return unoffered_tools(choose_edit_format(backend.model) if chosen == "auto" else chosen)


def _system_prompt(
    settings: Settings,
    profile: Profile,
    root: Path,
    tell: Callable[[str], None] | None,
    form: str | None,
    shown_cwd: Path | None,
) -> tuple[str, str]:
    """The prompt and its basis.

    A person who starts qcode in a folder means its instructions to be read: they are text that
    asks, and permissions guard what they ask for. What could run by itself needs trust. Without
    `tell` none is read. `form` says how the last message must look."""
    from datetime import UTC, datetime

    from qcode.agent.instructions import Instructions, load_instructions
    from qcode.agent.system_prompt import Facts, build_system_prompt, gather_facts, prompt_basis

    facts = gather_facts(root, datetime.now(UTC).astimezone().date())
    if shown_cwd is not None:
        facts = replace(facts, cwd=shown_cwd)
    instructions = Instructions()
    if tell is not None:
        user_directory = Locations.from_environment(os.environ).config
        instructions = load_instructions(root, user_directory=user_directory)
        for note in instructions.notes:
            tell(note)

    def build(facts: Facts) -> str:
        return build_system_prompt(
            profile=profile,
            facts=facts,
            instructions=instructions.text,
            own=settings.system_prompt,
            added="\n\n".join(part for part in (settings.append_system_prompt, form) if part),
        )

    return build(facts), prompt_basis(build, facts)


def _ignore(line: str) -> None:
    pass


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
