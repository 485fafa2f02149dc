"""The agent: a conversation, and turns that continue it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from qcode.agent.answer_form import AnswerForm, InForm
from qcode.agent.compaction import Compactor
from qcode.agent.context_use import ContextUse, measure
from qcode.agent.event_queue import EventQueue
from qcode.agent.limits import TurnLimits
from qcode.agent.permission_gate import PermissionGate
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session import Session
from qcode.agent.tool_specs import tool_spec
from qcode.agent.turn import CompactNow, ToolLoop, TurnContext, TurnOutcome, TurnStrategy
from qcode.agent.verification import Verified, VerifyCommand
from qcode.protocol.backends import Backend
from qcode.protocol.errors import LimitReached, QcodeError
from qcode.protocol.events import Event, TurnFinished, TurnStarted
from qcode.protocol.messages import Message, UserMessage
from qcode.protocol.permissions import Approver, Mode, PermissionRequest
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import Tool

logger = logging.getLogger(__name__)


class Agent:
    """One conversation with a model that has tools. All methods run on one event loop."""

    def __init__(
        self,
        *,
        backend: Backend,
        tools: Sequence[Tool[Any]],
        policy: PermissionPolicy,
        approver: Approver,
        session: Session,
        system_prompt: str,
        prompt_basis: str = "",
        unoffered: frozenset[str] = frozenset(),
        limits: TurnLimits | None = None,
        verify: VerifyCommand | None = None,
        answer_form: AnswerForm | None = None,
        strategy_for: Callable[[str], TurnStrategy | None] | None = None,
        sampling: SamplingParams | None = None,
        spill_directory: Path | None = None,
    ) -> None:
        """The model is told of all tools but those in `unoffered`, which are there for what leads
        it. A session that was begun with the same `prompt_basis` and tools goes on with the system
        prompt it has."""
        self.backend = backend
        self.session = session
        self.limits = limits or TurnLimits()
        self.verify = verify
        self.answer_form = answer_form
        self.tools = {tool.name: tool for tool in tools}
        self._specs = tuple(tool_spec(tool) for tool in tools if tool.name not in unoffered)
        self.system_prompt = session.settle_prompt(system_prompt, prompt_basis, self._specs)
        self._gate = PermissionGate(policy, approver)
        self._compactor = Compactor(session, backend)
        self._strategy_for = strategy_for
        self._sampling = sampling or SamplingParams()
        self._spill_directory = spill_directory
        self._steering: deque[str] = deque()
        self._turn: asyncio.Task[TurnOutcome] | None = None

    @property
    def conversation(self) -> tuple[Message, ...]:
        return self.session.conversation()

    @property
    def offered(self) -> tuple[str, ...]:
        """The names of the tools that the model is told of."""
        return tuple(spec.name for spec in self._specs)

    @property
    def mode(self) -> Mode:
        return self._gate.policy.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._gate.policy = self._gate.policy.with_mode(mode)

    def suggested_rule(self, request: PermissionRequest) -> str | None:
        """The rule that a "session" or "always" answer to this request adds; None: none can."""
        return self._gate.policy.suggested_rule(request)

    def run(self, prompt: str) -> AsyncGenerator[Event, None]:
        """One turn. `TurnFinished` is always the last event; closing the generator before it
        cancels the turn."""
        return self._events(prompt, self._strategy(prompt), said=UserMessage(content=prompt))

    def compact(self) -> AsyncGenerator[Event, None]:
        """A turn that only shortens the conversation."""
        return self.play(CompactNow())

    def play(self, strategy: TurnStrategy) -> AsyncGenerator[Event, None]:
        """A turn without a prompt, in which `strategy` does what it does."""
        return self._events("", strategy)

    def context_use(self) -> ContextUse:
        """What the next request would hold. Blocks."""
        request = self._context(lambda event: None).request()
        return measure(request, self._compactor.counter, self._compactor.window)

    async def _events(
        self, prompt: str, strategy: TurnStrategy, *, said: UserMessage | None = None
    ) -> AsyncGenerator[Event, None]:
        if self._turn is not None:
            raise RuntimeError("a turn is already running")
        events = EventQueue()
        turn = self._context(events.put)
        task = self._turn = asyncio.create_task(self._play(prompt, turn, strategy, said))
        task.add_done_callback(lambda _: events.close())
        try:
            while (event := await events.get()) is not None:
                yield event
            yield _finished(task, turn, strategy)
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._turn = None

    def steer(self, text: str) -> None:
        """Says something to the model while it works; it is read before the next step."""
        self._steering.append(text)

    def cancel(self) -> None:
        """Stops the running turn, if there is one; its event stream still ends properly."""
        if self._turn is not None and not self._turn.cancelling():
            self._turn.cancel()

    def _context(self, emit: Callable[[Event], None]) -> TurnContext:
        return TurnContext(
            backend=self.backend,
            system_prompt=self.system_prompt,
            tools=self.tools,
            specs=self._specs,
            session=self.session,
            gate=self._gate,
            compactor=self._compactor,
            limits=self.limits,
            sampling=self._sampling,
            steering=self._steering,
            emit=emit,
            spill_directory=self._spill_directory,
        )

    def _strategy(self, prompt: str) -> TurnStrategy:
        special = None if self._strategy_for is None else self._strategy_for(prompt)
        strategy = special or ToolLoop()
        if self.verify is not None:
            strategy = Verified(strategy, self.verify)
        return strategy if self.answer_form is None else InForm(strategy, self.answer_form)

    async def _play(
        self, prompt: str, turn: TurnContext, strategy: TurnStrategy, said: UserMessage | None
    ) -> TurnOutcome:
        turn.emit(TurnStarted(prompt=prompt))
        if said is not None:
            turn.add(said)
        try:
            async with asyncio.timeout(turn.budget.remaining_s()):
                return await strategy.run(prompt, turn)
        except TimeoutError:
            if turn.budget.remaining_s() == 0:
                raise turn.budget.out_of_time() from None
            raise


def _finished(
    task: asyncio.Task[TurnOutcome], turn: TurnContext, strategy: TurnStrategy
) -> TurnFinished:
    outcome = _outcome(task)
    exit_code = outcome.verify_exit_code
    if exit_code is None and isinstance(strategy, (Verified, InForm)):
        exit_code = strategy.exit_code
    return TurnFinished(
        check=outcome.check,
        reason=outcome.reason,
        text=outcome.text,
        usage=turn.usage,
        num_steps=turn.budget.num_steps,
        error=outcome.error,
        verify_exit_code=exit_code,
    )


def _outcome(task: asyncio.Task[TurnOutcome]) -> TurnOutcome:
    if task.cancelled():
        return TurnOutcome(reason="cancelled")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, LimitReached):
        return TurnOutcome(reason="limit", error=error)
    if isinstance(error, QcodeError):
        return TurnOutcome(reason="failed", error=error)
    logger.error("a turn failed unexpectedly", exc_info=error)
    unexpected = QcodeError(
        f"Internal error: {type(error).__name__}: {error}",
        hint="This is a bug in qcode; the log file has the details.",
    )
    return TurnOutcome(reason="failed", error=unexpected)
