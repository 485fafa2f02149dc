"""The `glob` tool."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import PermissionRequest
from qcode.protocol.tools import TextDisplay, ToolContext, ToolResult
from qcode.sandbox.workspace import Workspace
from qcode.tools.file_access import read_request, shown_path
from qcode.tools.file_walk import walk_files
from qcode.tools.glob_pattern import compile_glob

MAX_FILES = 100


class GlobParams(BaseModel):
    pattern: str = Field(description="Pattern such as **/*.py or src/**/test_*.py.")
    path: str = Field(".", description="Directory to search in.")


class Glob:
    name = "glob"
    description = "Find files by name pattern, newest first."
    parameters = GlobParams

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def permission(self, params: GlobParams) -> PermissionRequest:
        return read_request(
            self._workspace,
            tool=self.name,
            path=params.path,
            doing=f"Find {params.pattern} in",
        )

    async def run(self, params: GlobParams, context: ToolContext) -> ToolResult:
        path = self._workspace.resolve(params.path)
        found = await asyncio.to_thread(self._find, path, params)
        if not found:
            hint = "" if "/" in params.pattern else f"; **/{params.pattern} looks deeper"
            return ToolResult(content=f"No files match {params.pattern}{hint}.")
        lines = [shown_path(self._workspace, file) for file in found[:MAX_FILES]]
        if len(found) > MAX_FILES:
            lines.append(f"[{len(found) - MAX_FILES} more]")
        return ToolResult(content="\n".join(lines), display=TextDisplay(text=f"{len(found)} files"))

    def _find(self, directory: Path, params: GlobParams) -> list[Path]:
        if not directory.is_dir():
            raise ToolError(f"there is no directory {params.path}")
        pattern = params.pattern
        if pattern.startswith("/"):
            pattern = pattern.removeprefix(str(directory)).lstrip("/")
        expression = compile_glob(pattern)
        matches = []
        for file in walk_files(self._workspace.root, directory):
            if expression.fullmatch(file.relative_to(directory).as_posix()):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    matches.append((-file.stat().st_mtime_ns, file))
        return [file for _, file in sorted(matches)]
