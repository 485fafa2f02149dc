"""The `list_directory` tool."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import PermissionRequest
from qcode.protocol.tools import TextDisplay, ToolContext, ToolResult
from qcode.sandbox.workspace import Workspace
from qcode.tools.file_access import read_request, shown_path
from qcode.tools.file_walk import IgnoreRules, is_left_out

MAX_ENTRIES = 500


class ListDirectoryParams(BaseModel):
    path: str = Field(".", description="Directory to list.")
    ignore: list[str] = Field(default_factory=list, description="Glob patterns to leave out.")
    respect_git_ignore: bool = Field(True, description="Leave out what .gitignore does.")


class ListDirectory:
    name = "list_directory"
    description = "List the files and directories in a directory."
    parameters = ListDirectoryParams

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def permission(self, params: ListDirectoryParams) -> PermissionRequest:
        return read_request(
            self._workspace,
            tool=self.name,
            path=params.path,
            doing="List",
        )

    async def run(self, params: ListDirectoryParams, context: ToolContext) -> ToolResult:
        path = self._workspace.resolve(params.path)
        names, left_out = await asyncio.to_thread(self._list, path, params)
        name = shown_path(self._workspace, path)
        lines = names[:MAX_ENTRIES]
        if len(names) > MAX_ENTRIES:
            lines.append(f"[{len(names) - MAX_ENTRIES} more]")
        if left_out:
            lines.append(f"[{left_out} ignored]")
        return ToolResult(
            content="\n".join(lines) if lines else f"{name} is empty.",
            display=TextDisplay(text=f"{len(names)} entries"),
        )

    def _list(self, path: Path, params: ListDirectoryParams) -> tuple[list[str], int]:
        """Names, directories first and with a slash; and how many were left out."""
        rules = None
        if params.respect_git_ignore and self._workspace.contains(path):
            rules = IgnoreRules.down_to(self._workspace.root, path)
        from pathspec import GitIgnoreSpec  # late, as in file_walk

        unwanted = GitIgnoreSpec.from_lines(params.ignore)
        try:
            with os.scandir(path) as scan:
                entries = list(scan)
        except FileNotFoundError:
            raise ToolError(f"there is no directory {params.path}") from None
        except NotADirectoryError:
            raise ToolError(f"{params.path} is a file; use read_file") from None
        except OSError as error:
            raise ToolError(f"{params.path}: {(error.strerror or str(error)).lower()}") from error
        kept = [
            entry
            for entry in entries
            if not is_left_out(entry, rules) and not unwanted.match_file(entry.name)
        ]
        kept.sort(key=lambda entry: (not entry.is_dir(), entry.name))
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in kept]
        return names, len(entries) - len(kept)
