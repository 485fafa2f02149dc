"""The interactive program: read a prompt, run a turn, show it, until the person leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.text import Text

from qcode.config.locations import Locations
from qcode.config.options import RunOptions, SessionChoice
from qcode.frontends.repl.input import PromptInput
from qcode.frontends.repl.slash_commands import SLASH_COMMANDS, next_mode, run_command
from qcode.frontends.repl.typing_ahead import TerminalKeys
from qcode.protocol.errors import QcodeError
from qcode.protocol.events import Event as TurnEvent
from qcode.protocol.events import TurnFinished
from qcode.protocol.permissions import Mode
from qcode.sandbox.terminal_text import printable

if TYPE_CHECKING:
    from qcode.agent.agent import Agent
    from qcode.frontends.repl.transcript import Transcript
    from qcode.protocol.backends import Backend
    from qcode.protocol.permissions import Approver

# A second Ctrl-C within this time leaves.
HURRY_S = 2.0
INTERRUPTED = 130
NOTHING_YET = "There is no conversation yet."


class OpenAgent(Protocol):
    """Makes the agent; may block. A `backend` is taken over from the conversation before."""

    def __call__(
        self, options: RunOptions, approver: Approver, *, backend: Backend | None
    ) -> Agent: ...


class Repl:
    """One person at one terminal. `open_agent` is called in a thread, with the first prompt: until
    then nothing heavy is loaded, so that the prompt is there at once. `stop_opening` asks it to
    end early where it would block for long."""

    def __init__(
        self,
        options: RunOptions,
        *,
        console: Console,
        prompt: PromptInput,
        open_agent: OpenAgent,
        stop_opening: Event,
    ) -> None:
        self._options = options
        self._console = console
        self._prompt = prompt
        self._open_agent = open_agent
        self._stop_opening = stop_opening
        self._agent: Agent | None = None
        self._backend: Backend | None = None
        self._transcript: Transcript | None = None
        self._mode: Mode | None = None
        self._leaving = False
        self._compacting = False
        self._interrupted_s = float("-inf")
        self._keys = TerminalKeys()

    # What the /commands see.

    @property
    def mode(self) -> Mode:
        if self._agent is not None:
            return self._agent.mode
        return self._mode or Mode(str(self._options.flags.get("approval_mode", Mode.DEFAULT)))

    @property
    def model_name(self) -> str:
        if self._agent is not None:
            return self._agent.backend.model.name
        return str(self._options.flags.get("model", "")) or "chosen with the first prompt"

    @property
    def session_id(self) -> str:
        return "" if self._agent is None else self._agent.session.id

    def set_mode(self, mode: Mode) -> None:
        self._mode = mode
        if self._agent is not None:
            self._agent.mode = mode

    def new_session(self) -> None:
        if self._agent is not None:
            self._agent.session.close()
        self._agent = None
        self._options = replace(self._options, session=SessionChoice())

    def context_report(self) -> str:
        return NOTHING_YET if self._agent is None else self._agent.context_use().report()

    def compact(self) -> str:
        self._compacting = self._agent is not None
        return "" if self._compacting else NOTHING_YET

    def leave(self) -> None:
        self._leaving = True

    def next_mode(self) -> None:
        self.set_mode(next_mode(self.mode))

    def toolbar(self) -> str:
        model = "" if self._agent is None else f" · {printable(self.model_name)}"
        return f" {self.mode}{model} · Shift+Tab mode · /help"

    # The loop.

    async def run(self) -> int:
        """Reads and works until the person leaves. Returns the exit code."""
        with self._keys.kept():
            return await self._converse()

    async def _converse(self) -> int:
        if self._options.session.kind != "new":
            await self._open_earlier()
        while not self._leaving:
            try:
                text = (await self._prompt.read()).strip()
            except KeyboardInterrupt:
                if self._hurried():
                    return INTERRUPTED
                continue
            except EOFError:
                break
            if text.startswith("/") and "\n" not in text:
                self._say(run_command(text, self))
                if self._compacting and self._agent is not None:
                    self._compacting = False
                    await self._show(self._agent, self._agent.compact())
            elif text:
                await self._turn(text)
        if self.session_id:
            self._say(f"Go on with it: qcode --resume {self.session_id}")
        return 0

    async def _turn(self, text: str) -> None:
        try:
            agent = await self._ready_agent()
        except QcodeError as error:
            self._show_error(error)
            return
        if agent is not None:
            await self._show(agent, agent.run(text))

    async def _show(self, agent: Agent, turn: AsyncGenerator[TurnEvent, None]) -> None:
        from qcode.frontends.repl.transcript import Transcript

        self._transcript = Transcript(self._console)
        with self._interrupts(agent.cancel), self._transcript:
            await show_turn(self._transcript, turn)
        self._transcript = None

    async def _open_earlier(self) -> None:
        try:
            agent = await self._ready_agent()
        except QcodeError as error:
            self._show_error(error)
            self._options = replace(self._options, session=SessionChoice())
            return
        if agent is not None and agent.session.title:
            self._say(f"Going on with: {agent.session.title}")

    async def _ready_agent(self) -> Agent | None:
        """None: the person stopped it, and has been told."""
        if self._agent is None:
            from qcode.agent.permissions import suggested_rule
            from qcode.frontends.repl.approval import TerminalApprover

            approver = TerminalApprover(self._console, quiet=self._quiet, rule_for=suggested_rule)
            self._stop_opening.clear()
            with self._interrupts(self._leave_opening):
                agent = await asyncio.to_thread(
                    self._open_agent, self._options, approver, backend=self._backend
                )
            if self._mode is not None:
                agent.mode = self._mode
            self._agent, self._backend = agent, agent.backend
            if self._stop_opening.is_set():
                return None
        return self._agent

    def _leave_opening(self) -> None:
        self._say("Stopping.")
        self._stop_opening.set()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keeps the transcript off the terminal while something else uses it."""
        transcript = self._transcript
        if transcript is not None:
            transcript.pause()
        try:
            yield
        finally:
            if transcript is not None:
                transcript.resume()

    @contextmanager
    def _interrupts(self, stop: Callable[[], None]) -> Iterator[None]:
        """Ctrl-C stops the work; a second one soon after leaves the program."""
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if self._hurried():
                self._restore_terminal()
                os._exit(INTERRUPTED)
            stop()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _hurried(self) -> bool:
        now = time.monotonic()
        hurried = now - self._interrupted_s < HURRY_S
        self._interrupted_s = now
        return hurried

    def _restore_terminal(self) -> None:
        if self._transcript is not None:
            self._transcript.pause()
        self._console.show_cursor(True)
        self._keys.restore()

    async def close(self) -> None:
        if self._agent is not None:
            self._agent.session.close()
        if self._backend is not None:
            await self._backend.aclose()

    def _say(self, text: str) -> None:
        if text:
            self._console.print(Text(printable(text)), soft_wrap=True)

    def _show_error(self, error: QcodeError) -> None:
        self._console.print(Text(printable(error.message), "red"))
        if error.hint:
            self._console.print(Text(f"hint: {printable(error.hint)}"))


async def show_turn(
    transcript: Transcript, turn: AsyncGenerator[TurnEvent, None]
) -> TurnFinished | None:
    """Shows every event of a turn, and returns how it ended."""
    finished = None
    animation = asyncio.create_task(transcript.animate())
    try:
        async with aclosing(turn) as events:
            async for event in events:
                transcript.show(event)
                if isinstance(event, TurnFinished):
                    finished = event
    finally:
        animation.cancel()
    return finished


async def run_repl(options: RunOptions, open_agent: OpenAgent, stop_opening: Event) -> int:
    """Runs the conversation on this process's terminal and returns the exit code."""
    console = Console()
    repl: Repl
    prompt = PromptInput(
        history_file=Locations.from_environment(os.environ).input_history,
        commands=[(command.name, command.description) for command in SLASH_COMMANDS],
        toolbar=lambda: repl.toolbar(),
        next_mode=lambda: repl.next_mode(),
    )
    repl = Repl(
        options, console=console, prompt=prompt, open_agent=open_agent, stop_opening=stop_opening
    )
    console.print(Text("qcode", "bold"), Text("/help lists the commands, Ctrl-D leaves", "dim"))
    try:
        return await repl.run()
    finally:
        await repl.close()
