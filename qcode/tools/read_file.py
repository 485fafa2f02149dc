"""The `read_file` tool."""

from __future__ import annotations

import asyncio
import difflib
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import PermissionRequest
from qcode.protocol.tools import TextDisplay, ToolContext, ToolResult
from qcode.sandbox.workspace import Workspace
from qcode.tools.file_access import is_secret_file, read_request, shown_path
from qcode.tools.file_records import FileRecords
from qcode.tools.file_walk import walk_files
from qcode.tools.output_limit import limit_line
from qcode.tools.text_lines import split_lines

MAX_LINES = 2000
MAX_CHARS = 28_000  # what a conversation takes whole; more would lose its middle there
MAX_LINE_CHARS = 2000


class ReadFileParams(BaseModel):
    file_path: str = Field(description="File to read.")
    offset: int = Field(0, ge=0, description="First line to read, counted from 0.")
    limit: int = Field(MAX_LINES, ge=1, description="How many lines to read.")


class ReadFile:
    name = "read_file"
    description = "Read a text file. Lines are shown with their numbers, counted from 1."
    parameters = ReadFileParams

    def __init__(
        self, workspace: Workspace, records: FileRecords, *, also_inside: tuple[Path, ...] = ()
    ) -> None:
        """`also_inside` are directories read as freely as the workspace (spilled output)."""
        self._workspace = workspace
        self._records = records
        self._also_inside = also_inside

    async def permission(self, params: ReadFileParams) -> PermissionRequest:
        return read_request(
            self._workspace,
            tool=self.name,
            path=params.file_path,
            doing="Read",
            also_inside=self._also_inside,
        )

    async def run(self, params: ReadFileParams, context: ToolContext) -> ToolResult:
        path = self._workspace.resolve(params.file_path)
        await asyncio.to_thread(self._check_kind, path, params.file_path)
        file = await self._workspace.read(path)
        self._records.remember(path, file.stamp)
        lines = split_lines(file.text)
        name = shown_path(self._workspace, path)
        if not lines:
            return ToolResult(content=f"{name} is empty.")
        if params.offset >= len(lines):
            raise ToolError(f"{name} has only {len(lines)} lines; offset must be less than that")
        shown = _numbered(lines, params.offset, params.limit)
        end = params.offset + len(shown)
        content = "\n".join(shown)
        if params.offset or end < len(lines):
            content += f"\n[lines {params.offset + 1}-{end} of {len(lines)}"
            content += f"; go on with offset={end}]" if end < len(lines) else "]"
        return ToolResult(content=content, display=TextDisplay(text=f"{len(shown)} lines"))

    def _check_kind(self, path: Path, asked: str) -> None:
        if path.is_dir():
            raise ToolError(f"{asked} is a directory; use list_directory")
        if not path.exists():
            similar = _similar_files(self._workspace, path)
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise ToolError(f"there is no file {asked}{hint}")


def _numbered(lines: list[str], offset: int, limit: int) -> list[str]:
    shown: list[str] = []
    size = 0
    for number, line in enumerate(lines[offset : offset + min(limit, MAX_LINES)], offset + 1):
        text = f"{number:6d}\t{limit_line(line.rstrip(chr(13) + chr(10)), MAX_LINE_CHARS)}"
        size += len(text) + 1
        if shown and size > MAX_CHARS:
            break
        shown.append(text)
    return shown


def _similar_files(workspace: Workspace, path: Path) -> list[str]:
    """Up to three files of the workspace with this name, else with one like it."""
    names = {
        shown_path(workspace, file): file.name
        for file in walk_files(workspace.root, workspace.root)
        if not is_secret_file(workspace, file)
    }
    same = [shown for shown, name in names.items() if name == path.name]
    wanted = shown_path(workspace, path)
    return (same or difflib.get_close_matches(wanted, list(names), n=3, cutoff=0.7))[:3]
