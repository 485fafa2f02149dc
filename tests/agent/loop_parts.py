"""A tiny model, tools and policy for tests of the loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from qcode.agent.agent import Agent
from qcode.agent.limits import TurnLimits
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.session import Session
from qcode.agent.turn import TurnStrategy
from qcode.agent.verification import VerifyCommand
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk, Completed, TextDelta
from qcode.protocol.errors import ToolError
from qcode.protocol.events import Event
from qcode.protocol.messages import AssistantMessage, Block, TextBlock, ToolCall, Usage
from qcode.protocol.permissions import (
    Access,
    Answer,
    DiffDisplay,
    Mode,
    PermissionRequest,
    ShellAnalysis,
    SimpleCommand,
)
from qcode.protocol.tools import ToolContext, ToolResult

E = TypeVar("E")
Script = list[Chunk | Exception | asyncio.Event]


@dataclass
class ScriptedModel:
    """Plays one script an answer. An `asyncio.Event` in a script waits until it is set; an
    exception is raised."""

    scripts: list[Script]
    context_window: int | None = None
    requests: list[ChatRequest] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    num_closed: int = 0

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name="scripted", context_window=self.context_window)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        script = self.scripts.pop(0)
        try:
            for item in script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    self.waiting.set()
                    await item.wait()
                else:
                    yield item
        finally:
            self.num_closed += 1

    async def aclose(self) -> None:
        pass


def says(text: str, *, input_tokens: int = 10, output_tokens: int = 5) -> Script:
    message = AssistantMessage(
        blocks=(TextBlock(text=text),) if text else (),
        stop_reason="end",
        model="scripted",
        usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
    )
    return [TextDelta(text=text), Completed(message=message)]


def calls(*wanted: tuple[str, object], text: str = "") -> Script:
    """An answer with calls: (tool name, arguments as a value or as raw text)."""
    blocks: list[Block] = [TextBlock(text=text)] if text else []
    for number, (name, arguments) in enumerate(wanted):
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
        blocks.append(ToolCall(id=f"c{number}", name=name, arguments=raw))
    message = AssistantMessage(
        blocks=tuple(blocks),
        stop_reason="tool_calls",
        model="scripted",
        usage=Usage(input_tokens=10, output_tokens=5),
    )
    return [Completed(message=message)]


class PathParams(BaseModel):
    path: str
    limit: int | None = None


class EditParams(BaseModel):
    path: str
    text: str
    tags: list[str] = []


class CommandParams(BaseModel):
    command: str
    timeout: float | None = None


class ReadTool:
    """Reads from a dict. `gate` holds every read until it is set."""

    name = "read_file"
    description = "Reads."
    parameters = PathParams

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.gate: asyncio.Event | None = None
        self.running = 0
        self.most_running = 0
        self.done: set[str] = set()
        self.started = asyncio.Event()
        self.two_running = asyncio.Event()

    async def permission(self, params: PathParams) -> PermissionRequest:
        return PermissionRequest(
            tool=self.name,
            access=Access.READ,
            target=params.path,
            inside_workspace=True,
            title=f"Read {params.path}",
        )

    async def run(self, params: PathParams, context: ToolContext) -> ToolResult:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.started.set()
        if self.running == 2:
            self.two_running.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            if params.path not in self.files:
                raise ToolError(f"No file {params.path}.", hint="List the directory.")
            self.done.add(params.path)
            return ToolResult(content=self.files[params.path])
        finally:
            self.running -= 1


class EditTool:
    name = "edit"
    description = "Writes."
    parameters = EditParams

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.only_after: ReadTool | None = None

    async def permission(self, params: EditParams) -> PermissionRequest:
        if self.only_after is not None and params.path not in self.only_after.done:
            raise ToolError(f"{params.path} has not been read.")
        return PermissionRequest(
            tool=self.name,
            access=Access.EDIT,
            target=params.path,
            inside_workspace=True,
            title=f"Edit {params.path}",
            preview=DiffDisplay(
                path=params.path, old_text=self.files.get(params.path), new_text=params.text
            ),
        )

    async def run(self, params: EditParams, context: ToolContext) -> ToolResult:
        self.files[params.path] = params.text
        return ToolResult(content="Written.", changed_files=(f"/w/{params.path}",))


class ShellTool:
    """Succeeds unless told otherwise. `hold` keeps it running; stopping it takes a while, as it
    does with a process."""

    name = "run_shell_command"
    description = "Runs."
    parameters = CommandParams

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.started = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.stopping = asyncio.Event()
        self.stopped = False
        self.exit_code: Callable[[], int] = lambda: 0

    async def permission(self, params: CommandParams) -> PermissionRequest:
        return PermissionRequest(
            tool=self.name,
            access=Access.EXECUTE,
            target=params.command,
            inside_workspace=True,
            title=f"Run {params.command}",
            shell=ShellAnalysis(commands=(SimpleCommand(argv=tuple(params.command.split())),)),
        )

    async def run(self, params: CommandParams, context: ToolContext) -> ToolResult:
        self.commands.append(params.command)
        self.started.set()
        context.progress("working\n")
        if self.hold is not None:
            try:
                await self.hold.wait()
            finally:
                self.stopping.set()
                for _ in range(5):
                    await asyncio.sleep(0)
                self.stopped = True
        code = self.exit_code()
        return ToolResult(content=f"exit code {code}", exit_code=code, is_error=code != 0)


class PersonWhoSays:
    """An approver with one answer; `hold` makes it wait, as a person does."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[PermissionRequest] = []
        self.hold: asyncio.Event | None = None
        self.waiting = asyncio.Event()

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        self.asked.append(request)
        self.waiting.set()
        if self.hold is not None:
            await self.hold.wait()
        return self.answer


class Bench:
    """An agent with its scripted model, tools and person in reach."""

    def __init__(
        self,
        *scripts: Script,
        limits: TurnLimits | None = None,
        verify: VerifyCommand | None = None,
        strategy_for: Callable[[str], TurnStrategy | None] | None = None,
        mode: Mode = Mode.YOLO,
        deny: Sequence[str] = (),
        answer: Answer | None = None,
        context_window: int | None = None,
        session: Session | None = None,
    ) -> None:
        self.files = {"a.py": "print(1)\n", "b.py": "print(2)\n"}
        self.model = ScriptedModel(list(scripts), context_window=context_window)
        self.reads = ReadTool(self.files)
        self.edits = EditTool(self.files)
        self.shell = ShellTool()
        self.person = PersonWhoSays(answer or Answer(allowed=True))
        self.agent = Agent(
            backend=self.model,
            tools=[self.reads, self.edits, self.shell],
            policy=PermissionPolicy(mode=mode, workspace_root=Path("/work"), deny=deny),
            approver=self.person,
            session=session or Session(session_id="s"),
            system_prompt="You are a test.",
            limits=limits,
            verify=verify,
            strategy_for=strategy_for,
        )


async def play(agent: Agent, prompt: str) -> list[Event]:
    async with aclosing(agent.run(prompt)) as events:
        return [event async for event in events]


def of_type(events: Sequence[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def assert_well_formed(agent: Agent) -> None:
    """Nothing had to be mended on replay: each call got its one result when it happened."""
    stored = [entry.message for entry in agent.session.message_entries()]
    assert tuple(stored) == agent.conversation
