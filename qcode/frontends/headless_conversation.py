"""Several prompts from a program: one turn for each line it writes, until it closes its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qcode.frontends.headless import JsonOutput, OutputClosed, failure, run_headless
from qcode.frontends.headless_input import (
    BadLine,
    ControlRequest,
    Input,
    UserInput,
    deliver_inputs,
)
from qcode.frontends.partial_messages import JsonObject
from qcode.frontends.progress import Progress
from qcode.frontends.stream_json import control_error, control_success
from qcode.protocol.errors import BadInput
from qcode.protocol.events import TurnFinished
from qcode.protocol.permissions import Mode

if TYPE_CHECKING:
    from qcode.agent.agent import Agent

_MODES = {
    "default": Mode.DEFAULT,
    "plan": Mode.PLAN,
    "acceptEdits": Mode.AUTO_EDIT,
    "auto_edit": Mode.AUTO_EDIT,
    "auto-edit": Mode.AUTO_EDIT,
}
"""Those that may be chosen on the way; yolo must have been there from the beginning."""


class HeadlessConversation:
    """Runs turns as they are asked for. What goes wrong with a line or a turn ends neither the
    others nor the conversation, but the program's exit code tells of it."""

    def __init__(self, agent: Agent, *, output: JsonOutput, progress: Progress) -> None:
        self._agent = agent
        self._output = output
        self._progress = progress
        self._prompts: asyncio.Queue[str | None] = asyncio.Queue()
        self._trouble: TurnFinished | None = None
        self._stopped: TurnFinished | None = None
        self._interrupted = False

    async def run(self, stdin: int) -> TurnFinished:
        """How the conversation ended: as its first turn that did not end well, else as its last.
        `output` has been started. `stdin` is a file descriptor."""
        deliver_inputs(stdin, self._receive)
        last: TurnFinished | None = None
        while self._stopped is None and (prompt := await self._prompts.get()) is not None:
            self._interrupted = False
            last = await run_headless(
                self._agent, prompt, output=self._output, progress=self._progress
            )
            if isinstance(last.error, OutputClosed):
                return last
            if exits_badly(last) and not self._interrupted:
                self._trouble = self._trouble or last
        if last is None:
            return self._without_turn()
        return self._stopped or self._trouble or last

    def cancel(self) -> None:
        """Stops the turn that runs, and takes no other."""
        self._stop(TurnFinished(reason="cancelled"))

    def _stop(self, finished: TurnFinished) -> None:
        self._stopped = finished
        self._prompts.put_nowait(None)
        self._agent.cancel()

    def _without_turn(self) -> TurnFinished:
        """A conversation has one `result` at the least."""
        nothing = BadInput("Standard input held no message.")
        finished = self._stopped or self._trouble or failure(nothing)
        self._progress.show(finished)
        try:
            self._output.finish(finished)
        except BrokenPipeError:
            return TurnFinished(reason="failed", error=OutputClosed("stdout was closed."))
        return finished

    def _receive(self, received: Input | None) -> None:
        try:
            match received:
                case None:
                    self._prompts.put_nowait(None)
                case UserInput():
                    self._prompts.put_nowait(received.text)
                case BadLine():
                    error = BadInput(f"Standard input, {received.problem}")
                    self._trouble = self._trouble or failure(error)
                    self._progress.error(error)
                    self._output.complain(error)
                case ControlRequest():
                    self._output.tell(self._answer(received))
        except BrokenPipeError:
            self._stop(TurnFinished(reason="failed", error=OutputClosed("stdout was closed.")))

    def _answer(self, request: ControlRequest) -> JsonObject:
        match request.subtype:
            case "initialize":
                return control_success(request.id, {"commands": [], "agents": []})
            case "interrupt":
                self._interrupted = True
                self._agent.cancel()
                return control_success(request.id, {})
            case "set_permission_mode":
                mode = _MODES.get(str(request.fields.get("mode")))
                if mode is None:
                    return control_error(request.id, f"the modes are {', '.join(_MODES)}")
                self._agent.mode = mode
                return control_success(request.id, {"mode": mode.value})
            case "mcp_server_status":
                return control_success(request.id, {"mcpServers": []})
            case _:
                return control_error(request.id, f"{request.subtype} is not supported")


def exits_badly(finished: TurnFinished) -> bool:
    return finished.reason != "completed" or finished.verify_exit_code not in (None, 0)
