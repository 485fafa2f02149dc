"""Which tools a session offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from qcode.protocol.errors import SettingsError
from qcode.protocol.permissions import Access, PermissionRequest
from qcode.protocol.tools import Tool, ToolContext, ToolResult
from qcode.tools.selection import select_tools


class Nothing(BaseModel):
    pass


class Named:
    description = "Does nothing."
    parameters = Nothing

    def __init__(self, name: str) -> None:
        self.name = name

    async def permission(self, params: Nothing) -> PermissionRequest:
        return PermissionRequest(
            tool=self.name, access=Access.READ, target="", inside_workspace=True, title=self.name
        )

    async def run(self, params: Nothing, context: ToolContext) -> ToolResult:
        return ToolResult(content="")


TOOLS: Sequence[Tool[Any]] = [
    Named(name) for name in ("read_file", "edit", "write_file", "glob", "run_shell_command")
]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["read_file", "edit", "write_file", "glob", "run_shell_command"]),
        ([], []),
        (["run_shell_command", "read_file"], ["read_file", "run_shell_command"]),
        (["Read"], ["read_file", "glob"]),
        (["Edit", "Bash"], ["edit", "write_file", "run_shell_command"]),
        (["glob", "Read"], ["read_file", "glob"]),
    ],
)
def test_the_wanted_ones_in_their_own_order(wanted: list[str] | None, names: list[str]) -> None:
    assert [tool.name for tool in select_tools(TOOLS, wanted)] == names


def test_a_tool_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no tool 'read_fil'") as caught:
        select_tools(TOOLS, ["read_fil"])
    assert "Did you mean read_file?" in caught.value.hint
