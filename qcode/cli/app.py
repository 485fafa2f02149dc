"""The command line. Each command's module is loaded when it is invoked, so that help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from qcode import __version__
from qcode.cli.exit_codes import INTERRUPTED, USAGE, exit_code_of_error
from qcode.cli.flags import (
    AllowFlag,
    ApprovalModeFlag,
    BaseUrlFlag,
    ContextFlag,
    ContinueFlag,
    DenyFlag,
    KVDtypeFlag,
    ModelFlag,
    ProfileFlag,
    SandboxFlag,
    TrustFlag,
    VerboseFlag,
    YoloFlag,
    chosen_mode,
    session_choice,
    setting_flags,
)
from qcode.config.options import RunOptions, SessionChoice
from qcode.frontends.progress import error_text
from qcode.protocol.errors import QcodeError
from qcode.sandbox.terminal_text import printable

# Name -> module holding a Typer application called `command`, and the line shown in the help.
COMMANDS = {
    "run": ("qcode.cli.run", "Do one task without a conversation, and end."),
    "demo": ("qcode.cli.demo", "Watch qcode fix a failing test in a small sample project."),
    "model": ("qcode.cli.models", "List, fetch, run, score and quantize models."),
    "session": ("qcode.cli.sessions", "List, show and remove stored conversations."),
    "replay": ("qcode.cli.replay", "Run a stored session again; report the first difference."),
    "settings": ("qcode.cli.settings", "Show every setting, its value and where that comes from."),
    "doctor": ("qcode.cli.doctor", "Check this machine, and say how to mend what is missing."),
}

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class LazyCommand(TyperCommand):
    """A command known by name and help line; its module is loaded when it is used."""

    def __init__(self, name: str, module: str, help_line: str) -> None:
        super().__init__(name, help=help_line)
        self._module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        command = get_command(import_module(self._module).command)
        return command.make_context(info_name, args, parent, **extra)


class CommandLine(TyperGroup):
    """The commands by name. A task that was written where a command stands is told so."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and " " in args[0]:
            ctx.fail(f'{args[0]!r} is no command. To have it done: qcode run "{args[0]}"')
        return super().resolve_command(ctx, args)


application = typer.Typer(
    cls=CommandLine,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"qcode {__version__}")
        raise typer.Exit


@application.callback()
def converse(
    context: typer.Context,
    go_on: ContinueFlag = False,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="[ID]", help="Go on with a conversation; choose without ID."
        ),
    ] = None,
    model: ModelFlag = None,
    base_url: BaseUrlFlag = None,
    context_window: ContextFlag = None,
    kv_dtype: KVDtypeFlag = None,
    approval_mode: ApprovalModeFlag = None,
    yolo: YoloFlag = False,
    allow: AllowFlag = None,
    deny: DenyFlag = None,
    profile: ProfileFlag = None,
    sandbox: SandboxFlag = None,
    trust: TrustFlag = False,
    verbose: VerboseFlag = False,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    """A coding agent in your terminal, with its own model engine inside.

    Without a command: a conversation about the folder you are in.
    """
    flags = setting_flags(
        model=model,
        base_url=base_url,
        context_window=context_window,
        kv_dtype=kv_dtype,
        approval_mode=chosen_mode(approval_mode, yolo=yolo),
        allow=allow,
        deny=deny,
        profile=profile,
        sandbox=sandbox,
    )
    session = session_choice(go_on=go_on, resume=resume)
    if context.invoked_subcommand is not None:
        if flags or session.kind != "new" or trust or verbose:
            context.fail(
                f"Write options after the command: qcode {context.invoked_subcommand} --option ..."
            )
        return
    if not _on_terminal():
        context.fail('A conversation needs a terminal. For one task: qcode run "PROMPT"')
    options = RunOptions(cwd=Path.cwd(), flags=flags, session=session, trust=trust, verbose=verbose)
    raise typer.Exit(_start_repl(options))


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _start_repl(options: RunOptions) -> int:
    """What is heavy is loaded with the first prompt, on a thread, by `open_agent` itself."""
    import asyncio
    from functools import partial
    from threading import Event

    from qcode.assembly import open_agent
    from qcode.cli.logs import configure_logging
    from qcode.config.locations import Locations
    from qcode.frontends.repl.app import run_repl

    configure_logging(Locations.from_environment(os.environ).log, verbose=options.verbose)
    if options.session == SessionChoice(kind="resume"):
        from qcode.cli.sessions import choose_session

        options = replace(options, session=choose_session(options.cwd))
    stop = Event()
    obtain = partial(obtain_model, stopped=stop.is_set)
    return asyncio.run(
        run_repl(options, partial(open_agent, obtain=obtain, tell=_tell), stop_opening=stop)
    )


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)


def obtain_model(name: str, stopped: Callable[[], bool] = lambda: False) -> Path:
    """Fetches a model that is not on this machine yet, with a bar on stderr. Blocks."""
    from qcode.cli.installed_models import user_store
    from qcode.cli.models import pull_with_progress

    return pull_with_progress(user_store(), name, stopped).path


def create_command() -> TyperGroup:
    group = get_command(application)
    assert isinstance(group, TyperGroup)
    for name, (module, help_line) in COMMANDS.items():
        group.add_command(LazyCommand(name, module, help_line), name)
    return group


def app(loaded: Callable[[], None] = lambda: None) -> NoReturn:
    """Runs the command line of this process and ends it with the code of the table. `loaded` is
    called before the command begins: from then on it has Ctrl-C to itself."""
    try:
        if not sys.argv[1:] and _on_terminal():
            # Typer loads pydantic to read the arguments; without any the prompt is there sooner.
            loaded()
            sys.exit(_start_repl(RunOptions(cwd=Path.cwd())))
        arguments = _with_resume_value(sys.argv[1:])
        if arguments and arguments[0] in COMMANDS:
            # Without a look at the options of a conversation, which would take longer.
            module, _ = COMMANDS[arguments[0]]
            command = get_command(import_module(module).command)
            loaded()
            command.main(args=arguments[1:], prog_name=f"qcode {arguments[0]}", **CONTEXT)
        commands = create_command()
        loaded()
        commands.main(args=arguments, prog_name="qcode")
    except QcodeError as error:
        print(printable(error_text(error)), file=sys.stderr)
        sys.exit(exit_code_of_error(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(USAGE)  # unreachable in standalone mode, where `main` always exits


def _with_resume_value(arguments: list[str]) -> list[str]:
    """`qcode --resume` needs no ID: an empty one is put in for the parser, which has no options
    with an optional value."""
    if COMMANDS.keys() & set(arguments) or "--resume" not in arguments:
        return arguments
    after = arguments.index("--resume") + 1
    if arguments[after : after + 1] and not arguments[after].startswith("-"):
        return arguments
    return [*arguments[:after], "", *arguments[after:]]
