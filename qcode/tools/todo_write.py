"""The `todo_write` tool."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from qcode.protocol.permissions import Access, PermissionRequest
from qcode.protocol.tools import TodoDisplay, TodoItem, ToolContext, ToolResult

_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class Todo(BaseModel):
    content: str = Field(min_length=1)
    status: Literal["pending", "in_progress", "completed"] = "pending"


class TodoWriteParams(BaseModel):
    todos: list[Todo] = Field(description="The whole list, done items included.")


class TodoWrite:
    name = "todo_write"
    description = "Keep the list of steps of a longer task."
    parameters = TodoWriteParams

    async def permission(self, params: TodoWriteParams) -> PermissionRequest:
        return PermissionRequest(
            tool=self.name,
            access=Access.READ,  # it touches nothing outside the conversation
            target="",
            inside_workspace=True,
            title="Update the list of steps",
        )

    async def run(self, params: TodoWriteParams, context: ToolContext) -> ToolResult:
        items = tuple(TodoItem(content=todo.content, status=todo.status) for todo in params.todos)
        lines = [f"{_MARKS[item.status]} {item.content}" for item in items]
        return ToolResult(
            content="\n".join(lines) if lines else "The list is empty.",
            display=TodoDisplay(items=items),
        )
