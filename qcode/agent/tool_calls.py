"""The calls of one step: validate, permit, run, collect in order.

Every call ends in exactly one `ToolMessage`, whatever happens to it: unknown tool, invalid
arguments, refusal, failure, cancellation. Arguments are never invented: what cannot be read goes
back to the model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from qcode.agent.arguments import ArgumentError, read_arguments
from qcode.agent.large_results import ResultLimit
from qcode.agent.limits import Budget
from qcode.agent.permission_gate import PermissionGate
from qcode.agent.repetition import STOP_AT, RepetitionGuard
from qcode.agent.session import Session
from qcode.protocol.errors import QcodeError, TaskNotDone, ToolError
from qcode.protocol.events import Event, ToolFinished, ToolProgress, ToolStarted
from qcode.protocol.messages import Message, ToolCall, ToolMessage
from qcode.protocol.permissions import Access, DiffDisplay, PermissionRequest
from qcode.protocol.tools import Tool, ToolContext, ToolResult
from qcode.protocol.values import dataclass

MAX_CALLS_PER_ANSWER = 64

NOT_RUN = "Not run: the turn was stopped before this call."
STOPPED = "Stopped while it ran. Its effects may be incomplete; check before doing it again."
FAILED = "The tool failed unexpectedly. This is a fault of the program, not of the call."


Origin = Literal["model", "harness", "user"]
"""Who planned a call. What the program plans may repeat; what the person typed is also not asked
about again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCall:
    """A call that may run. `remark` is told to the model before the result."""

    call: ToolCall
    tool: Tool[Any]
    params: Any
    request: PermissionRequest
    remark: str


class ToolCallRunner:
    """Runs the calls of one turn; `add` puts a message into history."""

    def __init__(
        self,
        *,
        tools: Mapping[str, Tool[Any]],
        gate: PermissionGate,
        session: Session,
        budget: Budget,
        emit: Callable[[Event], None],
        add: Callable[[Message], None],
        result_limit: ResultLimit | None = None,
    ) -> None:
        self._tools = tools
        self._result_limit = result_limit or ResultLimit()
        self._gate = gate
        self._session = session
        self._budget = budget
        self._emit = emit
        self._add = add
        self._repetitions = RepetitionGuard()

    async def run(
        self,
        calls: Sequence[ToolCall],
        origin: Origin = "model",
        *,
        max_chars: int | None = None,
    ) -> list[ToolResult]:
        """The results in call order. Reads run together, everything else alone and in order.

        Raises `LimitReached` and `TaskNotDone` (the model repeats a call without end) after every
        call has its result in history.
        """
        limit = self._result_limit
        if max_chars is not None:
            limit = replace(limit, max_chars=max_chars)
        step = _Step(calls, self._emit, self._add, limit)
        reads: list[asyncio.Task[None]] = []
        try:
            for index, call in enumerate(calls):
                prepared = await self._prepare(index, call, origin, reads)
                if isinstance(prepared, ToolResult):
                    step.finish(index, call.name, prepared)
                elif prepared.request.access is Access.READ:
                    reads.append(asyncio.create_task(self._execute(index, prepared, step, origin)))
                else:
                    await self._execute(index, prepared, step, origin)
            await _settle(reads)
        finally:
            try:
                for task in reads:
                    task.cancel()
                await asyncio.gather(*reads, return_exceptions=True)
            finally:
                step.finish_rest()
        if origin == "model":
            self._stop_endless(calls)
        return step.results()

    async def _prepare(
        self, index: int, call: ToolCall, origin: Origin, reads: list[asyncio.Task[None]]
    ) -> PreparedCall | ToolResult:
        """What is ready to run, or the result that says why it is not. Unless it is a read, the
        `reads` before it have ended then."""
        self._budget.begin_tool_call()
        if index >= MAX_CALLS_PER_ANSWER:
            return _refused(f"Not run: at most {MAX_CALLS_PER_ANSWER} calls in one answer.")
        if origin == "model" and (refusal := self._repetitions.refusal(call)) is not None:
            return _refused(refusal)
        try:
            prepared = await self._permit(call, origin, reads)
        except (ArgumentError, ToolError) as error:
            prepared = _error_result(error)
        if isinstance(prepared, ToolResult):
            return self._observed(call, prepared, origin)
        return prepared

    async def _permit(
        self, call: ToolCall, origin: Origin, reads: list[asyncio.Task[None]]
    ) -> PreparedCall | ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise ArgumentError(f"There is no tool named {call.name!r}. The tools are: {known}.")
        arguments = read_arguments(tool, call.arguments)
        request = await _request(tool, arguments.params, reads)
        if arguments.guessed and request.access is not Access.READ:
            raise ArgumentError(
                f"Not run: {arguments.remark} Only a call that reads may be mended. "
                "Send the call again with valid JSON arguments."
            )
        preview = request.preview
        if isinstance(preview, DiffDisplay) and preview.old_text == preview.new_text:
            raise ArgumentError(
                f"Not run: this would change nothing, {preview.path} already reads so."
            )
        if origin != "user":
            refusal = await self._gate.refusal(call.id, request, self._emit, self._session)
            if refusal is not None:
                return _refused(refusal)
        return PreparedCall(
            call=call, tool=tool, params=arguments.params, request=request, remark=arguments.remark
        )

    async def _execute(
        self, index: int, prepared: PreparedCall, step: _Step, origin: Origin
    ) -> None:
        call, request = prepared.call, prepared.request
        if request.access is not Access.READ:
            self._session.sync()  # the intent is on disk before the effect
        self._emit(ToolStarted(call=call, title=request.title, preview=request.preview))
        started = time.monotonic()
        context = ToolContext(
            call_id=call.id,
            progress=lambda text: self._emit(ToolProgress(call_id=call.id, text=text)),
        )
        result = ToolResult(content=FAILED, is_error=True)
        try:
            result = await _run(prepared, context)
            result = self._observed(call, result, origin)
        except asyncio.CancelledError:
            result = ToolResult(content=STOPPED, is_error=True)
            raise
        finally:
            if prepared.remark:
                result = replace(result, content=f"{prepared.remark}\n{result.content}")
            step.finish(index, request.title, result, duration_s=time.monotonic() - started)
            if request.access is not Access.READ:
                self._session.sync()

    def _observed(self, call: ToolCall, result: ToolResult, origin: Origin) -> ToolResult:
        remark = self._repetitions.observe(call, result) if origin == "model" else None
        if remark is None:
            return result
        return replace(result, content=f"{result.content}\n\n{remark}")

    def _stop_endless(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            if self._repetitions.stopped(call):
                raise TaskNotDone(
                    f"Stopped: the model made the same {call.name} call {STOP_AT} times "
                    "with the same result.",
                    hint="Say it differently, or use a stronger model.",
                )


class _Step:
    """The results of one step's calls. Messages enter history in call order, each as soon as all
    results before it are there."""

    def __init__(
        self,
        calls: Sequence[ToolCall],
        emit: Callable[[Event], None],
        add: Callable[[Message], None],
        limit: ResultLimit,
    ) -> None:
        self._calls = calls
        self._emit = emit
        self._add = add
        self._limit = limit
        self._results: list[ToolResult | None] = [None] * len(calls)
        self._num_added = 0

    def finish(self, index: int, title: str, result: ToolResult, duration_s: float = 0.0) -> None:
        call = self._calls[index]
        self._results[index] = result
        self._emit(ToolFinished(call=call, title=title, result=result, duration_s=duration_s))
        self._add_ready()

    def finish_rest(self) -> None:
        for index, call in enumerate(self._calls):
            if self._results[index] is None:
                self.finish(index, call.name, ToolResult(content=NOT_RUN, is_error=True))

    def results(self) -> list[ToolResult]:
        return [result for result in self._results if result is not None]

    def _add_ready(self) -> None:
        while self._num_added < len(self._calls):
            call, result = self._calls[self._num_added], self._results[self._num_added]
            if result is None:
                return
            self._num_added += 1
            self._add(
                ToolMessage(
                    call_id=call.id,
                    name=call.name,
                    content=self._limit.cut(result.content, tool=call.name),
                    is_error=result.is_error,
                )
            )


async def _run(prepared: PreparedCall, context: ToolContext) -> ToolResult:
    try:
        return await prepared.tool.run(prepared.params, context)
    except ToolError as error:
        return _error_result(error)


async def _request(
    tool: Tool[Any], params: Any, reads: list[asyncio.Task[None]]
) -> PermissionRequest:
    """What the call would touch. An edit may rest on a read of the same step, so what is no read,
    or is refused, is looked at again once the reads before it have ended."""
    try:
        request = await tool.permission(params)
    except ToolError:
        if not reads:
            raise
    else:
        if not reads or request.access is Access.READ:
            return request
    await _settle(reads)
    return await tool.permission(params)


async def _settle(reads: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*reads)
    reads.clear()


def _refused(reason: str) -> ToolResult:
    return ToolResult(content=reason, is_error=True)


def _error_result(error: QcodeError) -> ToolResult:
    content = f"{error.message}\n{error.hint}" if error.hint else error.message
    return ToolResult(content=content, is_error=True)
