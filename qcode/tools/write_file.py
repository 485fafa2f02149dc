"""The `write_file` tool."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import OutsideWorkspace, ToolError
from qcode.protocol.permissions import Access, DiffDisplay, PermissionRequest
from qcode.protocol.tools import ToolContext, ToolResult
from qcode.sandbox.workspace import TextFile, Workspace
from qcode.tools.file_access import file_request, shown_path
from qcode.tools.file_records import FileRecords
from qcode.tools.syntax_check import broken_syntax
from qcode.tools.text_lines import newline_style, split_lines, with_newlines


class WriteFileParams(BaseModel):
    file_path: str = Field(description="File to write.")
    content: str = Field(description="The whole new content.")


class WriteFile:
    name = "write_file"
    description = "Create a file, or replace one you have read. Use edit, if offered, for a part."
    parameters = WriteFileParams

    def __init__(self, workspace: Workspace, records: FileRecords) -> None:
        self._workspace = workspace
        self._records = records

    async def permission(self, params: WriteFileParams) -> PermissionRequest:
        path = resolve_for_writing(self._workspace, params.file_path)
        name = shown_path(self._workspace, path)
        old = await read_if_there(self._workspace, path)
        preview = DiffDisplay(
            path=name,
            old_text=None if old is None else old.text,
            new_text=_as_before(params.content, old),
        )
        return file_request(
            self._workspace,
            tool=self.name,
            access=Access.EDIT,
            path=path,
            title=f"{'Create' if old is None else 'Write'} {name}",
            preview=preview,
        )

    async def run(self, params: WriteFileParams, context: ToolContext) -> ToolResult:
        path = resolve_for_writing(self._workspace, params.file_path)
        name = shown_path(self._workspace, path)
        old = await read_if_there(self._workspace, path)
        text = _as_before(params.content, old)
        if old is not None:
            self._records.require(path, old.stamp, name)
            if old.text == text:
                raise ToolError(f"nothing to write: {name} already has exactly this content")
        stamp = await self._workspace.write_text(
            path, text, replaces=old.stamp if old else None, must_be_new=old is None
        )
        self._records.remember(path, stamp)
        done = "Created" if old is None else "Wrote"
        return ToolResult(
            content=f"{done} {name} ({len(split_lines(text))} lines)."
            + await asyncio.to_thread(syntax_note, name, old, text),
            display=DiffDisplay(path=name, old_text=old.text if old else None, new_text=text),
            changed_files=(str(path),),
        )


def resolve_for_writing(workspace: Workspace, path: str) -> Path:
    """Raises `OutsideWorkspace`: writing elsewhere is never offered, not even with a question."""
    resolved = workspace.resolve(path)
    if not workspace.contains(resolved) or resolved == workspace.root:
        raise OutsideWorkspace(f"{path} is outside the workspace {workspace.root}")
    return resolved


async def read_if_there(workspace: Workspace, path: Path) -> TextFile | None:
    return await workspace.read(path) if await asyncio.to_thread(path.exists) else None


def syntax_note(name: str, old: TextFile | None, text: str) -> str:
    """What is added to the result of a write that broke the file's syntax. It never prevents one:
    a change may take several steps."""
    fault = broken_syntax(name, old.text if old else "", text)
    if fault is None:
        return ""
    before = "; before this change it did" if old else ""
    return f"\nNote: {name} does not parse now{before}: {fault}."


def _as_before(content: str, old: TextFile | None) -> str:
    """The content with the newlines and the final newline of the file it replaces: a model writes
    LF and drops the last newline without meaning it."""
    if old is None:
        return content
    if newline_style(old.text) == "\r\n":
        content = with_newlines(content, "\r\n")
    if content and old.text.endswith("\n") and not content.endswith("\n"):
        content += "\r\n" if old.text.endswith("\r\n") else "\n"
    return content
