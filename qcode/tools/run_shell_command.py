"""The `run_shell_command` tool."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import OutsideWorkspace, ToolError
from qcode.protocol.permissions import Access, PermissionRequest
from qcode.protocol.tools import ToolContext, ToolResult
from qcode.sandbox.process import CommandResult, child_environment, run_command
from qcode.sandbox.workspace import Workspace
from qcode.tools.file_access import shown_path
from qcode.tools.line_paths import line_facts
from qcode.tools.shell_syntax import analyse

DEFAULT_TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
MAX_COMMAND_BYTES = 120_000  # the kernel's limit of one argument is 128 KiB
_MAX_TITLE = 120
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


class RunShellCommandParams(BaseModel):
    command: str = Field(min_length=1, description="Command line for bash.")
    description: str = Field("", description="What it does, in a few words.")
    directory: str = Field(".", description="Directory to run it in.")
    timeout: int | None = Field(None, ge=1, le=MAX_TIMEOUT_S, description="Seconds.")


class RunShellCommand:
    name = "run_shell_command"
    description = "Run a shell command. It gets no input and is stopped at its time limit."
    parameters = RunShellCommandParams

    def __init__(
        self,
        workspace: Workspace,
        *,
        default_timeout_s: float = DEFAULT_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
        spill_directory: Path | None = None,
    ) -> None:
        """`environment` is what commands see (default: the allow-list's part of this process's).
        Output too long for the model goes to files in `spill_directory`."""
        self._workspace = workspace
        self._default_timeout_s = default_timeout_s
        self._environment = (
            child_environment(os.environ) if environment is None else dict(environment)
        )
        self._environment["PATH"] = _absolute_entries(self._environment.get("PATH", ""))
        self._spill_directory = spill_directory

    async def permission(self, params: RunShellCommandParams) -> PermissionRequest:
        directory = self._directory(params)
        analysis = analyse(params.command)
        facts = await asyncio.to_thread(
            line_facts,
            analysis,
            workspace=self._workspace,
            directory=directory,
            search_path=self._environment["PATH"],
        )
        return PermissionRequest(
            tool=self.name,
            access=Access.EXECUTE,
            target=params.command,
            inside_workspace=facts.inside_workspace,
            title=self._title(params, directory),
            shell=analysis,
            protected=facts.sensitive,
        )

    async def run(self, params: RunShellCommandParams, context: ToolContext) -> ToolResult:
        timeout_s = float(params.timeout or self._default_timeout_s)
        result = await run_command(
            params.command,
            directory=self._directory(params),
            timeout_s=timeout_s,
            on_output=context.progress,
            environment=self._environment,
            spill_directory=self._spill_directory,
        )
        return ToolResult(
            content=_report(result, timeout_s),
            is_error=result.timed_out,
            exit_code=result.exit_code,
        )

    def _directory(self, params: RunShellCommandParams) -> Path:
        if len(params.command.encode("utf-8", "replace")) > MAX_COMMAND_BYTES:
            raise ToolError("the command is too long; write a script file and run that")
        if "\0" in params.command:
            raise ToolError("a command cannot hold a NUL character")
        directory = self._workspace.resolve(params.directory)
        if not self._workspace.contains(directory):
            raise OutsideWorkspace(
                f"{params.directory} is outside the workspace {self._workspace.root}"
            )
        if not directory.is_dir():
            raise ToolError(f"there is no directory {params.directory}")
        return directory

    def _title(self, params: RunShellCommandParams, directory: Path) -> str:
        line = " ".join(params.command.split())
        title = line if len(line) <= _MAX_TITLE else f"{line[:_MAX_TITLE]}…"
        if directory == self._workspace.root:
            return title
        return f"{title} (in {shown_path(self._workspace, directory)})"


def _report(result: CommandResult, timeout_s: float) -> str:
    if result.timed_out:
        first = (
            f"stopped after {timeout_s:g} s; probably an endless loop or a program waiting for "
            "input"
        )
    else:
        first = f"exit code {result.exit_code}"
    if result.omitted_bytes and result.spill_path is not None:
        # Here too: whoever shortens this further cuts in the middle, where the other note is.
        first += f" (long output; all of it is in {result.spill_path})"
    output = _ESCAPES.sub("", result.output)
    output = "\n".join(_last_written(line) for line in output.split("\n")).rstrip("\n")
    return f"{first}\n{output}" if output else f"{first}, no output"


def _absolute_entries(search_path: str) -> str:
    """An entry relative to the working directory would let any file there pass for a program."""
    entries = [entry for entry in search_path.split(os.pathsep) if entry.startswith("/")]
    return os.pathsep.join(entries) or os.defpath


def _last_written(line: str) -> str:
    """A progress bar rewrites its line; only what it wrote last is of use."""
    return line.rstrip("\r").rpartition("\r")[2]
