"""What a tool is: its description for the model, its permission question, its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from qcode.protocol.permissions import DiffDisplay, Display, PermissionRequest, TextDisplay
from qcode.protocol.values import dataclass

if TYPE_CHECKING:
    from pydantic import BaseModel

    P = TypeVar("P", bound=BaseModel)
else:
    P = TypeVar("P")

__all__ = [
    "DiffDisplay",
    "Display",
    "TextDisplay",
    "TodoDisplay",
    "TodoItem",
    "Tool",
    "ToolContext",
    "ToolResult",
    "ToolSpec",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it. `schema` is the JSON Schema of its arguments object."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TodoItem:
    content: str
    status: Literal["pending", "in_progress", "completed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TodoDisplay:
    items: tuple[TodoItem, ...]
    type: Literal["todo"] = "todo"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """`content` is for the model, `display` for people (None: the content serves both).

    `changed_files` are the absolute paths this call wrote; `exit_code` is that of a command."""

    content: str
    is_error: bool = False
    display: DiffDisplay | TextDisplay | TodoDisplay | None = None
    changed_files: tuple[str, ...] = ()
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """`progress` takes output as it comes, for people to watch; it never blocks."""

    call_id: str
    progress: Callable[[str], None]


class Tool(Protocol[P]):
    """One thing the model can do.

    `permission` says what `run` would touch: it may read, and changes nothing. Both raise
    `ToolError` for failures the model can mend.
    """

    name: str
    description: str
    parameters: type[P]

    async def permission(self, params: P) -> PermissionRequest: ...

    async def run(self, params: P, context: ToolContext) -> ToolResult: ...
