from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qcode.protocol.permissions import PermissionRequest
from qcode.protocol.tools import Tool, ToolContext, ToolResult
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.file_records import FileRecords


class Project:
    """A workspace in a temporary directory, and one session's records."""

    def __init__(self, root: Path) -> None:
        self.workspace = LocalWorkspace(root)
        self.root = self.workspace.root
        self.records = FileRecords()
        self.progress: list[str] = []

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    async def ask(self, tool: Tool[Any], **arguments: object) -> PermissionRequest:
        return await tool.permission(_params(tool, arguments))

    async def run(self, tool: Tool[Any], **arguments: object) -> ToolResult:
        context = ToolContext(call_id="call", progress=self.progress.append)
        return await tool.run(_params(tool, arguments), context)


def _params(tool: Tool[Any], arguments: Mapping[str, object]) -> BaseModel:
    model: type[BaseModel] = tool.parameters
    return model.model_validate(arguments)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project(root)
