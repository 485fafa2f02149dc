"""One headless run, from what was asked on the command line to the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.assembly import open_agent
from qcode.cli.answer_schema import read_schema
from qcode.cli.app import obtain_model
from qcode.cli.exit_codes import SIGNAL, exit_code
from qcode.cli.interruption import Interruption
from qcode.cli.output_file import check_place, write_answer
from qcode.cli.prompt_input import PromptInput, framed, read_prompt_input
from qcode.cli.standard_streams import is_in_foreground, when_stdout_is_closed, write_stdout
from qcode.config.locations import Locations
from qcode.config.options import RunOptions
from qcode.frontends.headless import (
    JsonOutput,
    Output,
    OutputClosed,
    OutputFormat,
    create_output,
    failure,
    run_headless,
)
from qcode.frontends.headless_approval import LineApprover, RefusingApprover
from qcode.frontends.headless_conversation import HeadlessConversation
from qcode.frontends.progress import Progress
from qcode.frontends.stream_json import RunFacts
from qcode.protocol.errors import QcodeError
from qcode.protocol.events import TurnFinished
from qcode.protocol.permissions import Approver
from qcode.protocol.values import dataclass

if TYPE_CHECKING:
    from qcode.agent.agent import Agent

logger = logging.getLogger(__name__)

_BROKEN_PIPE = SIGNAL + 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What comes in and goes out. `prompt` is the argument as typed; without it, and with `-`,
    standard input is read. Data beside it is waited for if `wait`. `many` prompts are read as
    stream-json, whatever `prompt` is. `json_schema` is a schema or the name of its file."""

    prompt: str | None
    output_format: OutputFormat
    wait: bool = False
    many: bool = False
    partial: bool = False
    output_file: Path | None = None
    json_schema: str | None = None


class HeadlessRun:
    """`options.prompt` plays no part: what to do comes from `streams`."""

    def __init__(self, options: RunOptions, streams: Streams) -> None:
        self._options = options
        self._streams = streams
        self._progress = Progress(sys.stderr, live=sys.stderr.isatty())
        max_line = 4000 if sys.stdout.isatty() else sys.maxsize
        self._output: Output = create_output(
            streams.output_format, self._write, partial=streams.partial, max_line=max_line
        )
        self._interruption: Interruption | None = None
        self._stdout_closed = False
        self._told = False

    def to_end(self) -> int:
        try:
            finished = asyncio.run(self._main())
        except asyncio.CancelledError:
            finished = TurnFinished(reason="cancelled")
        number = self._interruption.number if self._interruption is not None else None
        unread = isinstance(finished.error, OutputClosed) or self._stdout_closed
        if unread and number is None:
            return _BROKEN_PIPE
        return exit_code(finished, signal_number=number)

    async def _main(self) -> TurnFinished:
        self._interruption = Interruption()
        agent: Agent | None = None
        try:
            if self._streams.output_file is not None:
                check_place(self._streams.output_file)
            if self._streams.json_schema is not None:
                schema = read_schema(self._streams.json_schema)
                self._options = replace(self._options, answer_schema=schema)
            prompt = None if self._streams.many else await self._read_prompt()
            agent = await self._open_agent()
            text = "" if prompt is None else await asyncio.to_thread(self._framed, prompt, agent)
            return await self._run(agent, text, self._interruption)
        except asyncio.CancelledError:
            if agent is None:
                self._unstarted(TurnFinished(reason="cancelled"))
            raise
        except BrokenPipeError:
            return TurnFinished(reason="failed", error=OutputClosed("stdout was closed."))
        except Exception as error:
            if not isinstance(error, QcodeError):
                logger.exception("The run could not begin")
            return self._unstarted(failure(error))
        finally:
            if agent is not None:
                await agent.backend.aclose()
                agent.session.close()

    async def _read_prompt(self) -> PromptInput:
        return await asyncio.to_thread(
            read_prompt_input,
            self._streams.prompt,
            sys.stdin,
            self._progress.line,
            wait=self._streams.wait,
        )

    async def _open_agent(self) -> Agent:
        return await asyncio.to_thread(
            open_agent,
            self._options,
            self._approver(),
            obtain=obtain_model if sys.stderr.isatty() else None,
            tell=self._progress.line,
        )

    def _framed(self, prompt: PromptInput, agent: Agent) -> str:
        from qcode.agent.large_results import max_content_chars

        return framed(
            prompt,
            max_chars=max_content_chars(agent.backend.model.context_window),
            directory=Locations.from_environment(os.environ).spilled_output,
        )

    async def _run(self, agent: Agent, prompt: str, interruption: Interruption) -> TurnFinished:
        self._tell(self._facts(agent))
        if self._streams.many:
            assert isinstance(self._output, JsonOutput), "the command line sees to that"
            conversation = HeadlessConversation(agent, output=self._output, progress=self._progress)
            self._stop_by(conversation.cancel, interruption)
            finished = await conversation.run(sys.stdin.fileno())
        else:
            self._stop_by(agent.cancel, interruption)
            finished = await run_headless(
                agent, prompt, output=self._output, progress=self._progress
            )
        if self._streams.output_file is not None and finished.reason == "completed":
            interruption.cancels(None)
            finished = await self._keep_answer(self._streams.output_file, finished)
        return finished

    def _tell(self, facts: RunFacts) -> None:
        self._told = True
        self._output.start(facts)

    def _facts(self, agent: Agent) -> RunFacts:
        model = agent.backend.model
        return RunFacts(
            session_id=agent.session.id,
            cwd=str(self._options.cwd),
            model=model.name,
            mode=agent.mode.value,
            tools=agent.offered,
            context_window=model.context_window,
            prices=agent.limits.prices,
            structured=self._options.answer_schema is not None,
        )

    def _stop_by(self, cancel: Callable[[], None], interruption: Interruption) -> None:
        def closed() -> None:
            self._stdout_closed = True
            cancel()

        interruption.cancels(cancel)
        when_stdout_is_closed(closed)

    async def _keep_answer(self, file: Path, finished: TurnFinished) -> TurnFinished:
        try:
            await write_answer(file, finished.text)
        except OSError as error:
            lost = failure(QcodeError(f"{file}: cannot be written: {error.strerror}."))
            self._progress.show(lost)
            return lost
        return finished

    def _approver(self) -> Approver:
        person = (
            self._streams.output_format == "text"
            and sys.stderr.isatty()
            and is_in_foreground(sys.stdin.fileno())
        )
        if person:
            return LineApprover(self._progress.line, stdin=sys.stdin.fileno())
        return RefusingApprover(self._progress.line)

    def _unstarted(self, finished: TurnFinished) -> TurnFinished:
        """A run that ends before its agent exists still tells its reader so."""
        if finished.error is not None:
            self._progress.error(finished.error)
        model = self._options.flags.get("model", "")
        try:
            if not self._told:
                cwd = str(self._options.cwd)
                self._tell(RunFacts(session_id="", cwd=cwd, model=str(model), mode=""))
            self._output.finish(finished)
        except BrokenPipeError:
            return TurnFinished(reason="failed", error=OutputClosed("stdout was closed."))
        return finished

    def _write(self, text: str) -> None:
        self._progress.clear_live()
        write_stdout(text)
