"""The command line. Each command's module is loaded when it is invoked, so that help is quick."""

from __future__ import annotations

import os
import sys
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
    ContinueFlag,
    DenyFlag,
    ModelFlag,
    TrustFlag,
    VerboseFlag,
    YoloFlag,
    chosen_mode,
    session_choice,
    setting_flags,
)
from qcode.config.options import RunOptions
from qcode.frontends.progress import error_text
from qcode.protocol.errors import QcodeError
from qcode.sandbox.terminal_text import printable

# Name -> module holding a Typer application called `command`, and the line shown in the help.
COMMANDS = {
    "run": ("qcode.cli.run", "Do one task without a conversation, and end."),
    "demo": ("qcode.cli.demo", "Watch qcode fix a failing test in a small sample project."),
    "model": ("qcode.cli.models", "List, fetch and remove the models on this machine."),
    "session": ("qcode.cli.sessions", "List, show and remove stored conversations."),
    "settings": ("qcode.cli.settings", "Show every setting, its value and where that comes from."),
    "doctor": ("qcode.cli.doctor", "Check this machine, and say how to mend what is missing."),
}


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


application = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    approval_mode: ApprovalModeFlag = None,
    yolo: YoloFlag = False,
    allow: AllowFlag = None,
    deny: DenyFlag = None,
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
        approval_mode=chosen_mode(approval_mode, yolo=yolo),
        allow=allow,
        deny=deny,
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

    from qcode.assembly import open_agent
    from qcode.cli.logs import configure_logging
    from qcode.config.locations import Locations
    from qcode.frontends.repl.app import run_repl

    configure_logging(Locations.from_environment(os.environ).log, verbose=options.verbose)
    opened = partial(open_agent, obtain=obtain_model, tell=_tell)
    return asyncio.run(run_repl(options, opened))


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)


def obtain_model(name: str) -> Path:
    """Fetches a model that is not on this machine yet, with a bar on stderr. Blocks."""
    from qcode.cli.models import pull_with_progress, user_store

    return pull_with_progress(user_store(), name).path


def create_command() -> TyperGroup:
    group = get_command(application)
    assert isinstance(group, TyperGroup)
    for name, (module, help_line) in COMMANDS.items():
        group.add_command(LazyCommand(name, module, help_line), name)
    return group


def app() -> NoReturn:
    """Runs the command line of this process and ends it with the code of the table."""
    try:
        if not sys.argv[1:] and _on_terminal():
            # Typer loads pydantic to read the arguments; without any the prompt is there sooner.
            sys.exit(_start_repl(RunOptions(cwd=Path.cwd())))
        create_command().main(args=_with_resume_value(sys.argv[1:]), prog_name="qcode")
    except QcodeError as error:
        print(printable(error_text(error)), file=sys.stderr)
        sys.exit(exit_code_of_error(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(USAGE)  # unreachable in standalone mode, where `main` always exits


def _with_resume_value(arguments: list[str]) -> list[str]:
    """`qcode --resume` may end without an ID: an empty one is put in for the parser, which has no
    options with an optional value."""
    if arguments[-1:] == ["--resume"] and not COMMANDS.keys() & set(arguments):
        return [*arguments, ""]
    return arguments
