"""`qcode run`: one task, no conversation."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qcode.assembly import open_agent
from qcode.cli.app import obtain_model
from qcode.cli.exit_codes import SIGNAL, exit_code
from qcode.cli.flags import (
    AllowFlag,
    ApprovalModeFlag,
    BaseUrlFlag,
    ContextFlag,
    ContinueFlag,
    DenyFlag,
    KVDtypeFlag,
    ModelFlag,
    TrustFlag,
    VerboseFlag,
    YoloFlag,
    chosen_mode,
    session_choice,
    setting_flags,
)
from qcode.cli.interruption import Interruption
from qcode.cli.logs import configure_logging
from qcode.cli.prompt_input import read_prompt
from qcode.config.locations import Locations
from qcode.config.options import RunOptions
from qcode.frontends.headless import (
    Output,
    OutputClosed,
    OutputFormat,
    create_output,
    failure,
    run_headless,
)
from qcode.frontends.headless_approval import RefusingApprover, TerminalApprover
from qcode.frontends.progress import Progress
from qcode.frontends.stream_json import RunFacts
from qcode.protocol.errors import BadInput, QcodeError
from qcode.protocol.events import TurnFinished
from qcode.protocol.permissions import Approver

if TYPE_CHECKING:
    from qcode.agent.agent import Agent

logger = logging.getLogger(__name__)

_BROKEN_PIPE = SIGNAL + 13

command = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Do one task without a conversation, and end."
)


@command.command(context_settings={"allow_extra_args": True})
def run(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to do. `-`, or nothing: read it from standard input."),
    ] = None,
    output_format: Annotated[
        Literal["text", "json", "stream-json"],
        typer.Option(help="What stdout gets: the answer, one JSON array, or one object a line."),
    ] = "text",
    include_partial_messages: Annotated[
        bool,
        typer.Option("--include-partial-messages", help="With stream-json: also each delta."),
    ] = False,
    output_file: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE", help="Also write the answer to this file."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--cwd", "-C", metavar="DIR", exists=True, file_okay=False, help="Work in this folder."
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
    verify: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="Done only when this succeeds; exit 60 if it never does."),
    ] = None,
    max_turns: Annotated[
        str | None, typer.Option(metavar="N", help="Model requests at most; exit 53 beyond.")
    ] = None,
    max_wall_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="As 90, 30s, 5m, 1h; exit 55 beyond.")
    ] = None,
    max_tool_calls: Annotated[
        str | None, typer.Option(metavar="N", help="Tool calls at most; exit 55 beyond.")
    ] = None,
    go_on: ContinueFlag = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with this conversation.")
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep no record of the conversation.")
    ] = False,
    trust: TrustFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Do one task without a conversation, and end.

    Progress goes to stderr, the answer to stdout. What would need a person's yes is refused,
    unless stdin and stderr are a terminal.
    """
    if context.args:
        task = " ".join([prompt or "", *context.args])
        context.fail(f"Put the task in quotes: qcode run {shlex.quote(task)}")
    _open_missing_streams()
    flags = setting_flags(
        model=model,
        base_url=base_url,
        context_window=context_window,
        kv_dtype=kv_dtype,
        approval_mode=chosen_mode(approval_mode, yolo=yolo),
        allow=allow,
        deny=deny,
        verify=verify,
        max_turns=max_turns,
        max_wall_time=max_wall_time,
        max_tool_calls=max_tool_calls,
    )
    options = RunOptions(
        cwd=(directory or Path.cwd()).resolve(),
        prompt=prompt or "",
        flags=flags,
        session=session_choice(go_on=go_on, resume=resume, ephemeral=ephemeral),
        trust=trust,
        verbose=verbose,
    )
    configure_logging(Locations.from_environment(os.environ).log, verbose=verbose)
    headless = HeadlessRun(
        options=options,
        prompt_argument=prompt,
        output_format=output_format,
        partial=include_partial_messages,
        output_file=output_file,
    )
    raise typer.Exit(headless.to_end())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    prompt: str
    agent: Agent


class HeadlessRun:
    """One run from its command line to its exit code."""

    def __init__(
        self,
        *,
        options: RunOptions,
        prompt_argument: str | None,
        output_format: OutputFormat,
        partial: bool,
        output_file: Path | None,
    ) -> None:
        self._options = options
        self._prompt_argument = prompt_argument
        self._format = output_format
        self._output_file = output_file
        self._progress = Progress(sys.stderr, live=sys.stderr.isatty())
        max_line = 4000 if sys.stdout.isatty() else sys.maxsize
        self._output: Output = create_output(
            output_format, self._write, partial=partial, max_line=max_line
        )
        self._interruption: Interruption | None = None

    def to_end(self) -> int:
        try:
            finished = asyncio.run(self._main())
        except asyncio.CancelledError:
            finished = TurnFinished(reason="cancelled")
        if isinstance(finished.error, OutputClosed):
            return _BROKEN_PIPE
        number = self._interruption.number if self._interruption is not None else None
        return exit_code(finished, signal_number=number)

    async def _main(self) -> TurnFinished:
        self._interruption = Interruption()
        try:
            prepared = await self._prepare()
        except asyncio.CancelledError:
            self._unstarted(TurnFinished(reason="cancelled"))
            raise
        except Exception as error:
            if not isinstance(error, QcodeError):
                logger.exception("The run could not begin")
            return self._unstarted(failure(error))
        try:
            return await self._run(prepared)
        finally:
            await prepared.agent.backend.aclose()
            prepared.agent.session.close()

    async def _prepare(self) -> _Prepared:
        if self._output_file is not None and not self._output_file.absolute().parent.is_dir():
            raise BadInput(f"{self._output_file}: there is no such folder.")
        prompt = await asyncio.to_thread(
            read_prompt, self._prompt_argument, sys.stdin, self._progress.line
        )
        agent = await asyncio.to_thread(
            open_agent,
            self._options,
            self._approver(),
            obtain=obtain_model if sys.stderr.isatty() else None,
            tell=self._progress.line,
        )
        return _Prepared(prompt=prompt, agent=agent)

    async def _run(self, prepared: _Prepared) -> TurnFinished:
        agent = prepared.agent
        assert self._interruption is not None
        self._interruption.cancels(agent.cancel)
        model = agent.backend.model
        facts = RunFacts(
            session_id=agent.session.id,
            cwd=str(self._options.cwd),
            model=model.name,
            mode=agent.mode.value,
            tools=tuple(agent.tools),
            context_window=model.context_window,
        )
        self._output.start(facts)
        finished = await run_headless(
            agent, prepared.prompt, output=self._output, progress=self._progress
        )
        if self._output_file is not None and finished.reason == "completed":
            finished = self._keep_answer(self._output_file, finished)
        return finished

    def _keep_answer(self, file: Path, finished: TurnFinished) -> TurnFinished:
        try:
            file.write_text(finished.text, encoding="utf-8")
        except OSError as error:
            lost = failure(QcodeError(f"{file}: cannot be written: {error.strerror}."))
            self._progress.show(lost)
            return lost
        return finished

    def _approver(self) -> Approver:
        if self._format == "text" and sys.stdin.isatty() and sys.stderr.isatty():
            return TerminalApprover(self._progress.line, stdin=sys.stdin.fileno())
        return RefusingApprover(self._progress.line)

    def _unstarted(self, finished: TurnFinished) -> TurnFinished:
        """A run that ends before its agent exists still tells its reader so."""
        if finished.error is not None:
            self._progress.error(finished.error)
        model = self._options.flags.get("model", "")
        try:
            self._output.start(
                RunFacts(session_id="", cwd=str(self._options.cwd), model=str(model), mode="")
            )
            self._output.finish(finished)
        except BrokenPipeError:
            return TurnFinished(reason="failed", error=OutputClosed("stdout was closed."))
        return finished

    def _write(self, text: str) -> None:
        self._progress.clear_live()
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would be flushed once more, and complain, at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _open_missing_streams() -> None:
    """A stream closed by the caller leaves its number to the next file that is opened, which would
    then receive what is printed: /dev/null takes the place first."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
