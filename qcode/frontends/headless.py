"""One prompt, no person: the answer or JSON on stdout, progress on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from qcode.frontends.partial_messages import JsonObject
from qcode.frontends.progress import Progress
from qcode.frontends.stream_json import RunFacts, StreamJson
from qcode.protocol.errors import QcodeError
from qcode.protocol.events import Event, TurnFinished
from qcode.sandbox.terminal_text import printable

if TYPE_CHECKING:
    from qcode.agent.agent import Agent

OutputFormat = Literal["text", "json", "stream-json"]
T = TypeVar("T")
Write = Callable[[str], None]

logger = logging.getLogger(__name__)


class Output(Protocol):
    """What stdout gets of a run: `start` once, any events, `finish` once. Each may raise
    `BrokenPipeError`."""

    def start(self, facts: RunFacts) -> None: ...

    def show(self, event: Event) -> None: ...

    def finish(self, finished: TurnFinished) -> None: ...


class TextOutput:
    """Only the closing answer of a turn that went well, with what was run to check it. An answer
    in a form that was asked for stands alone."""

    def __init__(self, write: Write, *, max_line: int) -> None:
        self._write = write
        self._max_line = max_line
        self._structured = False

    def start(self, facts: RunFacts) -> None:
        self._structured = facts.structured

    def show(self, event: Event) -> None:
        pass

    def finish(self, finished: TurnFinished) -> None:
        if finished.reason == "completed" and finished.text:
            text = finished.text
            if finished.check is not None and not self._structured:
                text = f"{text.rstrip()}\n\n{finished.check.sentence}"
            text = printable(text, max_line=self._max_line)
            self._write(text if text.endswith("\n") else text + "\n")


class JsonOutput:
    """The objects of `StreamJson`: one a line as they come, or one array at the end."""

    def __init__(self, write: Write, *, stream: bool, partial: bool) -> None:
        self._write = write
        self._stream = stream
        self._partial = partial
        self._objects: list[JsonObject] = []
        self._translator: StreamJson | None = None

    def start(self, facts: RunFacts) -> None:
        self._translator = StreamJson(facts, self._emit, partial=self._partial)
        self._translator.start()

    def show(self, event: Event) -> None:
        if self._translator is not None:
            self._translator.show(event)

    def finish(self, finished: TurnFinished) -> None:
        if self._translator is not None:
            self._translator.finish(finished)
        if not self._stream:
            self._write(json.dumps(self._objects) + "\n")

    def complain(self, error: QcodeError) -> None:
        """Tells of something wrong that does not end the run."""
        if self._translator is not None:
            self._translator.complain(error)

    def tell(self, value: JsonObject) -> None:
        """Puts an object of another kind among those of the run."""
        self._emit(value)

    def _emit(self, value: JsonObject) -> None:
        if self._stream:
            self._write(json.dumps(value) + "\n")
        else:
            self._objects.append(value)


def create_output(
    output_format: OutputFormat, write: Write, *, partial: bool, max_line: int
) -> Output:
    if output_format == "text":
        return TextOutput(write, max_line=max_line)
    return JsonOutput(write, stream=output_format == "stream-json", partial=partial)


class OutputClosed(QcodeError):
    """Nobody reads stdout any more."""


async def run_headless(
    agent: Agent, prompt: str, *, output: Output, progress: Progress
) -> TurnFinished:
    """Runs one turn and shows it. `output` has been started and is finished here, whatever
    happens. A reader that goes away cancels the turn, which then ends with `OutputClosed`."""
    finished = TurnFinished(reason="failed", error=QcodeError("The turn ended without a word."))
    closed = False
    try:
        async with aclosing(agent.run(prompt)) as events:
            async for event in events:
                progress.show(event)
                if isinstance(event, TurnFinished):
                    finished = event
                elif not closed:
                    closed = not _delivered(output.show, event)
                    if closed:
                        agent.cancel()
    except asyncio.CancelledError:
        _delivered(output.finish, TurnFinished(reason="cancelled"))
        raise
    except Exception as error:
        logger.exception("The turn broke")
        finished = failure(error)
        progress.show(finished)
    if not closed:
        closed = not _delivered(output.finish, finished)
    if closed:
        return TurnFinished(reason="failed", error=OutputClosed("stdout was closed."))
    return finished


def failure(error: Exception) -> TurnFinished:
    """How a turn ends that broke off, or never began."""
    if not isinstance(error, QcodeError):
        error = QcodeError(
            f"{type(error).__name__}: {error}", "This is a bug in qcode; --verbose logs where."
        )
    return TurnFinished(reason="failed", error=error)


def _delivered(show: Callable[[T], None], value: T) -> bool:
    try:
        show(value)
    except BrokenPipeError:
        return False
    return True
