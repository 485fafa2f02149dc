"""The turn loop: ask the model, run the calls it makes, until it answers without one."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from qcode.agent.answer import HARNESS, PartialAnswer, with_unique_call_ids
from qcode.agent.compaction import Compactor
from qcode.agent.large_results import ResultLimit, max_content_chars
from qcode.agent.limits import Budget, TurnLimits
from qcode.agent.permission_gate import PermissionGate
from qcode.agent.recent_files import READ_TOOL, files_to_read_again, reading
from qcode.agent.resampling import hotter
from qcode.agent.session import Session
from qcode.agent.tool_calls import Origin, ToolCallRunner
from qcode.agent.turn_work import TurnWork
from qcode.protocol.backends import Backend, ChatRequest
from qcode.protocol.chunks import Completed, ReasoningDelta, Retrying, TextDelta
from qcode.protocol.errors import ContextOverflow, InvalidResponse, QcodeError
from qcode.protocol.events import (
    CompletionCheck,
    DraftDelta,
    Event,
    MessageAdded,
    Notice,
    StepStarted,
    TurnReason,
)
from qcode.protocol.messages import AssistantMessage, Message, Usage, UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import Tool, ToolResult, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOutcome:
    """How a turn ended; the fields are those of `TurnFinished`."""

    reason: TurnReason
    text: str = ""
    error: QcodeError | None = None
    verify_exit_code: int | None = None
    check: CompletionCheck | None = None


class TurnStrategy(Protocol):
    """A way to work on a prompt, which is in the conversation already when `run` begins.

    Raises `QcodeError` for what ends the turn as failed (`LimitReached`: as a limit). It may be
    cancelled at any await; what it put into history must be well-formed then.
    """

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome: ...


class TurnContext:
    """What a strategy works with during one turn."""

    def __init__(
        self,
        *,
        backend: Backend,
        system_prompt: str,
        tools: Mapping[str, Tool[Any]],
        specs: tuple[ToolSpec, ...],
        session: Session,
        gate: PermissionGate,
        compactor: Compactor,
        limits: TurnLimits,
        sampling: SamplingParams,
        steering: deque[str],
        emit: Callable[[Event], None],
        spill_directory: Path | None = None,
    ) -> None:
        self.backend = backend
        self.system_prompt = system_prompt
        self.tools = tools
        self.specs = specs
        self.session = session
        self.limits = limits
        self.budget = Budget(limits)
        self.sampling = sampling
        self.emit = emit
        self.work = TurnWork()
        self.partial: PartialAnswer | None = None
        self._compactor = compactor
        self._steering = steering
        self._max_content_chars = max_content_chars(backend.model.context_window)
        self._runner = ToolCallRunner(
            tools=tools,
            gate=gate,
            session=session,
            budget=self.budget,
            emit=emit,
            add=self.add,
            result_limit=ResultLimit(max_chars=self._max_content_chars, directory=spill_directory),
        )

    @property
    def usage(self) -> Usage:
        return self.budget.usage

    def add(self, message: Message) -> None:
        """Appends to the session and says so. A user message is on disk when this returns."""
        self.session.add(message)
        if isinstance(message, UserMessage):
            self.session.sync()
        if (notice := self.session.take_notice()) is not None:
            self.emit(Notice(text=notice, level="warning"))
        self.emit(MessageAdded(message=message))

    def add_steering(self) -> bool:
        """Adds what the person said meanwhile; False when there was nothing."""
        said = bool(self._steering)
        while self._steering:
            self.add(UserMessage(content=self._steering.popleft()))
        return said

    def request(self) -> ChatRequest:
        """The whole conversation, as the next request of a tool loop."""
        return ChatRequest(
            system=self.system_prompt,
            messages=self.session.conversation(),
            tools=self.specs,
            sampling=self.sampling,
        )

    async def stream(self, request: ChatRequest, *, show: bool = True) -> Completed:
        """One step: asks the model, forwards what it sends as events (`show` False: its text as a
        draft), counts usage. The answer is not added to history.

        An answer that repeats itself without end is cut: its stop reason is then "error". Raises
        `LimitReached`, `BackendError`, `EngineError`.
        """
        self.budget.begin_step()
        self.emit(StepStarted(step=self.budget.num_steps))
        partial = PartialAnswer(self.backend.model.name)
        self.partial = partial if show else None
        if show:
            request = self._repeatable(request)
            self.session.add_request(request, self.backend.model.name)
        async with aclosing(self.backend.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Completed):
                    self.partial = None
                    self.budget.usage += chunk.message.usage
                    self._compactor.counter.observe(request, chunk.message.usage)
                    return chunk
                if isinstance(chunk, Retrying):
                    partial.clear()
                if show or not isinstance(chunk, TextDelta | ReasoningDelta):
                    self.emit(chunk)
                elif isinstance(chunk, TextDelta):
                    self.emit(DraftDelta(text=chunk.text))
                if partial.feed(chunk):
                    self.partial = None
                    return Completed(message=partial.message("error"))
        raise InvalidResponse("The model's answer broke off without an end.")

    async def draft(self, request: ChatRequest) -> Completed:
        """An answer for the program itself to read: shown as a draft, and recorded as one. Raises
        as `stream` does."""
        completed = await self.stream(request, show=False)
        self.session.add_draft(request, self.backend.model.name, completed.message.text)
        return completed

    def _repeatable(self, request: ChatRequest) -> ChatRequest:
        """With the bundled engine every answer can be had again: it gets a seed that is known."""
        if not self.backend.model.local or request.sampling.seed is not None:
            return request
        return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(31)))

    async def run_calls(
        self,
        message: AssistantMessage,
        *,
        user_typed: bool = False,
        max_chars: int | None = None,
    ) -> list[ToolResult]:
        """Runs the calls of a message that is in history; one result each, in call order.

        `user_typed` calls carry a command that the person typed, and are not asked about. Calls
        that the program planned (`HARNESS`) may repeat as they like. `max_chars` is the most that
        one result may take. Raises `LimitReached` and `TaskNotDone` when history is complete.
        """
        origin: Origin = "harness" if message.model == HARNESS else "model"
        if user_typed:
            origin = "user"
        results = await self._runner.run(message.tool_calls, origin, max_chars=max_chars)
        self.work.record(message.tool_calls, results)
        return results

    async def shorten(self, *, force: bool = False) -> bool:
        """Compacts the conversation where it nears the window, or anyway; False: left as it is."""

        async def ask(request: ChatRequest) -> Completed:
            return await self.stream(request, show=False)

        done = await self._compactor.shorten(self.request(), self.emit, ask, force=force)
        await self._read_again(files_to_read_again(done.summarised, done.kept))
        return done.shorter

    async def _read_again(self, paths: Sequence[str]) -> None:
        """Puts back what a summary took away of the files that are worked on."""
        paths = paths[: self.budget.remaining_tool_calls()]
        if paths and READ_TOOL in self.tools:
            message = reading(paths)
            self.add(message)
            await self.run_calls(message, max_chars=self._max_content_chars // len(paths))


class CompactNow:
    """Only shortens the conversation, because the person asked for it."""

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        if not await turn.shorten(force=True):
            turn.emit(Notice(text="There is nothing to shorten."))
        return TurnOutcome(reason="completed")


@dataclass
class ToolLoop:
    """The ordinary strategy: the model leads."""

    max_empty_answers: int = 2
    _num_empty: int = field(default=0, init=False)
    _has_retried: bool = field(default=False, init=False)

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        while True:
            turn.add_steering()
            message = await self._ask(turn)
            if message.stop_reason == "error":
                self._after_endless(message, turn)
                continue
            if not message.tool_calls and not message.text.strip():
                self._after_empty(turn)
                continue
            turn.add(message)
            if message.tool_calls:
                await turn.run_calls(message)
                continue
            if not turn.add_steering():
                return _completed(message, turn)

    async def _ask(self, turn: TurnContext) -> AssistantMessage:
        await turn.shorten()
        try:
            request = turn.request()
            try:
                completed = await turn.stream(request)
            except ContextOverflow:
                if not await turn.shorten(force=True):
                    raise
                request = turn.request()
                completed = await turn.stream(request)
        except asyncio.CancelledError:
            if turn.partial is not None and turn.partial.has_text:
                turn.add(turn.partial.message("cancelled"))
            raise
        return with_unique_call_ids(completed.message, request.messages)

    def _after_endless(self, message: AssistantMessage, turn: TurnContext) -> None:
        """The cut answer is dropped and asked for once more, less likely to go the same way."""
        if self._has_retried:
            turn.add(message)
            raise InvalidResponse(
                "The model began to repeat itself without end and was stopped.",
                hint="Ask again in other words, or use a stronger model.",
            )
        self._has_retried = True
        turn.sampling = hotter(turn.sampling)
        turn.emit(Retrying(attempt=1, wait_s=0.0, reason="the model repeated itself without end"))

    def _after_empty(self, turn: TurnContext) -> None:
        self._num_empty += 1
        if self._num_empty >= self.max_empty_answers:
            raise InvalidResponse(
                f"The model gave {self._num_empty} empty answers.",
                hint="Ask again in other words, or use a stronger model.",
            )
        turn.add(UserMessage(content="Your answer was empty. Go on, or say what you found."))


def _completed(message: AssistantMessage, turn: TurnContext) -> TurnOutcome:
    if message.stop_reason == "max_tokens":
        turn.emit(Notice(text="The answer was cut at its token limit.", level="warning"))
    return TurnOutcome(reason="completed", text=message.text)
