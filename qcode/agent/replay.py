"""Runs a stored session again and finds the first difference.

The record leads: what the person said, what the program added by itself and how the conversation
was shortened are taken from it. What is held against it is, by choice, the model's answers (asked
again of a model, each with the recorded conversation before it and the recorded sampling and seed)
and the tools' results (run afresh); and always that each request would be made of the same
conversation as it was then.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qcode.agent.answer import HARNESS
from qcode.agent.profile import EDIT_TOOL
from qcode.agent.repair.tried_files import TriedFiles
from qcode.agent.session import (
    DraftEntry,
    Entry,
    MessageEntry,
    RequestEntry,
    Session,
    TrialEndedEntry,
    conversation_digest,
)
from qcode.agent.turn import TurnContext, TurnOutcome
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk
from qcode.protocol.errors import SessionError
from qcode.protocol.events import Notice
from qcode.protocol.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from qcode.protocol.tools import ToolSpec

_MAX_SHOWN_LINES = 60
_VARYING = re.compile(
    r"\b\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|0x[0-9a-fA-F]{6,}|\d{4}-\d\d-\d\dT[\d:.+Z-]+"
)
"""What differs between two runs of the same command: times, addresses, dates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`step` counts the model's answers from 1. `context` is what came just before."""

    step: int
    what: str
    recorded: str
    now: str
    context: str = ""

    def report(self) -> str:
        lines = difflib.unified_diff(
            self.recorded.splitlines(), self.now.splitlines(), "recorded", "now", lineterm=""
        )
        shown = list(lines)
        if len(shown) > _MAX_SHOWN_LINES:
            shown = [*shown[:_MAX_SHOWN_LINES], f"[... {len(shown) - _MAX_SHOWN_LINES} more lines]"]
        head = f"First difference at step {self.step}: {self.what}."
        before = f"Before it: {self.context}" if self.context else ""
        return "\n".join(part for part in (head, before, *shown) if part)


@dataclass(slots=True)
class Replayed:
    """What was held against the record so far."""

    num_answers: int = 0
    num_results: int = 0
    num_requests: int = 0
    num_drafts: int = 0
    difference: Difference | None = None

    def report(self) -> str:
        if self.difference is not None:
            return self.difference.report()
        if not self.num_requests + self.num_answers + self.num_results:
            if self.num_drafts:
                return (
                    f"Nothing to compare: qcode led this session itself. Its {self.num_drafts} "
                    "answers are asked for again with --model, its tests run again with --live."
                )
            return (
                "Nothing to compare: the session records no requests. "
                "Attempts of --best-of leave only their outcome."
            )
        return (
            f"The same: {self.num_requests} requests, {self.num_answers} answers and "
            f"{self.num_results} results were held against the record."
        )


class NoModel:
    """The backend of a replay whose answers all come from the record."""

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name="record", context_window=None)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        raise SessionError("A replay from the record asks no model.")

    async def aclose(self) -> None:
        """Nothing is held open."""


@dataclass(kw_only=True)
class Replay:
    """A strategy for `Agent.play` with an empty session. `ask`: answers come from the agent's
    backend; `live`: results come from its tools. `until` is the last step that is run. `moved`
    are the folder of the record and the one in which the tools run now."""

    record: Sequence[Entry]
    ask: bool = False
    live: bool = False
    until: int | None = None
    moved: tuple[Path, Path] | None = None
    done: Replayed = field(default_factory=Replayed)
    _request: ChatRequest | None = None
    _step: int = 0
    _files: TriedFiles | None = None

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        branch = Session(session_id="record", entries=self.record).branch()
        results = _results(branch)
        system, tools = turn.system_prompt, turn.specs
        for entry in branch:
            if self.done.difference is not None or self._is_past_end(entry):
                break
            match entry:
                case RequestEntry():
                    system = system if entry.system is None else entry.system
                    tools = tools if entry.tools is None else entry.tools
                    self._check_request(entry, system, tools, turn)
                case DraftEntry():
                    await self._check_draft(entry, turn)
                case TrialEndedEntry():
                    self._end_trial(entry, turn)
                case MessageEntry(message=AssistantMessage() as message):
                    await self._check_answer(message, turn)
                    turn.session.append(entry)
                    await self._check_results(message, results, turn)
                case MessageEntry(message=ToolMessage()) if self.live:
                    pass  # the fresh one stands in its place
                case _:
                    turn.session.append(entry)
        return TurnOutcome(reason="completed", text=self.done.report())

    def _is_past_end(self, entry: Entry) -> bool:
        return (
            self.until is not None
            and self._step >= self.until
            and isinstance(entry, RequestEntry | DraftEntry | MessageEntry)
            and not (isinstance(entry, MessageEntry) and isinstance(entry.message, ToolMessage))
        )

    def _check_request(
        self, entry: RequestEntry, system: str, tools: tuple[ToolSpec, ...], turn: TurnContext
    ) -> None:
        conversation = turn.session.conversation()
        self._request = ChatRequest(
            system=system, messages=conversation, tools=tools, sampling=entry.sampling
        )
        self.done.num_requests += 1
        now = conversation_digest(conversation)
        if now != entry.messages and not self.live:
            self._differs(
                "the conversation that the model would be sent", entry.messages, now, turn
            )

    async def _check_answer(self, message: AssistantMessage, turn: TurnContext) -> None:
        if message.model == HARNESS:
            return
        self._step += 1
        request, self._request = self._request, None
        broken_off = message.stop_reason in ("cancelled", "error")
        if not self.ask or request is None or broken_off or self.done.difference is not None:
            return
        answer = (await turn.stream(request)).message
        self.done.num_answers += 1
        recorded, now = _said(message), _said(answer)
        if recorded != now:
            self._differs("the model's answer", recorded, now, turn)

    async def _check_draft(self, entry: DraftEntry, turn: TurnContext) -> None:
        """What the program asked for while it led."""
        self._step += 1
        self.done.num_drafts += 1
        if not self.ask:
            return
        answer = (await turn.stream(entry.request, show=False)).message
        self.done.num_answers += 1
        if answer.text != entry.text:
            self._differs("an answer to the program itself", entry.text, answer.text, turn)

    def _end_trial(self, entry: TrialEndedEntry, turn: TurnContext) -> None:
        if self.live and entry.kept:
            self._tried(turn).keep()
        elif self.live:
            self._tried(turn).restore()

    def _tried(self, turn: TurnContext) -> TriedFiles:
        """The files of this replay that the recorded calls of the program change."""
        if self._files is None:
            self._files = TriedFiles(lambda text: turn.emit(Notice(text=text, level="warning")))
        return self._files

    async def _run_calls(self, message: AssistantMessage, turn: TurnContext) -> None:
        """A change that the program tried can be taken back later."""
        paths = [path for call in message.tool_calls if (path := _edited(call)) is not None]
        if message.model != HARNESS or not all(path.is_file() for path in paths):
            paths = []
        for path in paths:
            await self._tried(turn).begin(path)
        await turn.run_calls(message)
        for path in paths:
            self._tried(turn).end(path)

    async def _check_results(
        self, message: AssistantMessage, recorded: dict[str, ToolMessage], turn: TurnContext
    ) -> None:
        if not self.live or not message.tool_calls or self.done.difference is not None:
            return
        before = len(turn.session.conversation())
        await self._run_calls(self._here(message), turn)
        for fresh in turn.session.conversation()[before - len(message.tool_calls) :]:
            if not isinstance(fresh, ToolMessage) or fresh.call_id not in recorded:
                continue
            self.done.num_results += 1
            then = _steady(recorded[fresh.call_id].content)
            now = _steady(self._there(fresh.content))
            if then != now and self.done.difference is None:
                self._differs(f"the result of {fresh.name}", then, now, turn)

    def _here(self, message: AssistantMessage) -> AssistantMessage:
        """The calls with the paths of the folder in which they run."""
        if self.moved is None:
            return message
        there, here = map(str, self.moved)
        blocks = tuple(
            replace(block, arguments=block.arguments.replace(there, here))
            if isinstance(block, ToolCall)
            else block
            for block in message.blocks
        )
        return replace(message, blocks=blocks)

    def _there(self, content: str) -> str:
        if self.moved is None:
            return content
        there, here = map(str, self.moved)
        return content.replace(here, there)

    def _differs(self, what: str, recorded: str, now: str, turn: TurnContext) -> None:
        self.done.difference = Difference(
            step=max(1, self._step),
            what=what,
            recorded=recorded,
            now=now,
            context=_context(turn.session),
        )


def _edited(call: ToolCall) -> Path | None:
    """The file that a call of `edit` changes."""
    if call.name != EDIT_TOOL:
        return None
    try:
        path = json.loads(call.arguments).get("file_path")
    except (ValueError, AttributeError):
        return None
    return Path(path) if isinstance(path, str) else None


def _results(branch: Sequence[Entry]) -> dict[str, ToolMessage]:
    return {
        entry.message.call_id: entry.message
        for entry in branch
        if isinstance(entry, MessageEntry) and isinstance(entry.message, ToolMessage)
    }


def _said(message: AssistantMessage) -> str:
    """Text and calls; ids are made up anew each time, and reasoning is not part of an answer."""
    calls = [f"call {call.name} {_canonical(call.arguments)}" for call in message.tool_calls]
    return "\n".join([message.text.strip(), *calls]).strip()


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True, ensure_ascii=False)
    except ValueError:
        return arguments


def _steady(content: str) -> str:
    return _VARYING.sub("#", content)


def _context(session: Session) -> str:
    """The last thing that was said, on one line."""
    conversation = session.conversation()
    if not conversation:
        return ""
    last = conversation[-1]
    match last:
        case AssistantMessage():
            text = _said(last)
        case UserMessage() | ToolMessage():
            text = last.content
    return f"[{last.role}] {' '.join(text.split())[:200]}"
