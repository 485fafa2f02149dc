"""The `grep_search` tool: by ripgrep where it is installed, else by our own walk."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import PermissionRequest
from qcode.protocol.tools import TextDisplay, ToolContext, ToolResult
from qcode.sandbox.process import child_environment
from qcode.sandbox.workspace import Workspace
from qcode.tools.file_access import is_secret_file, read_request, shown_path
from qcode.tools.file_walk import walk_files
from qcode.tools.glob_pattern import compile_glob
from qcode.tools.output_limit import limit_line, limit_text

DEFAULT_LIMIT = 100
MAX_LINE_CHARS = 400
MAX_CHARS = 20_000
MAX_FILE_BYTES = 5 * 1024 * 1024
TIME_LIMIT_S = 30.0


class GrepSearchParams(BaseModel):
    pattern: str = Field(description="Regular expression, case-insensitive.")
    path: str = Field(".", description="File or directory to search in.")
    glob: str | None = Field(None, description="Only files like this, such as *.py.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, description="Most lines to return.")


@dataclass(frozen=True, slots=True, order=True)
class _Match:
    path: Path
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class _Search:
    """`is_literal`: the pattern is no regular expression and is searched for as it stands."""

    target: Path
    pattern: str
    is_literal: bool
    limit: int
    glob: str | None


class GrepSearch:
    name = "grep_search"
    description = "Search file contents for a regular expression."
    parameters = GrepSearchParams

    def __init__(
        self,
        workspace: Workspace,
        *,
        also_inside: tuple[Path, ...] = (),
        ripgrep: str | None = None,
    ) -> None:
        """`ripgrep` is its path; "" never uses it; None looks for it."""
        self._workspace = workspace
        self._also_inside = also_inside
        self._ripgrep = shutil.which("rg") if ripgrep is None else ripgrep

    async def permission(self, params: GrepSearchParams) -> PermissionRequest:
        return read_request(
            self._workspace,
            tool=self.name,
            path=params.path,
            doing=f"Search {params.pattern!r} in",
            also_inside=self._also_inside,
        )

    async def run(self, params: GrepSearchParams, context: ToolContext) -> ToolResult:
        target = self._workspace.resolve(params.path)
        if not await asyncio.to_thread(target.exists):
            raise ToolError(f"there is no file or directory {params.path}")
        search = _Search(
            target=target,
            pattern=params.pattern,
            is_literal=not _is_regular_expression(params.pattern),
            limit=params.limit + 1,
            glob=params.glob,
        )
        if self._ripgrep:
            found = await self._by_ripgrep(self._ripgrep, search)
        else:
            found = await asyncio.to_thread(self._by_walk, search)
        return self._result(found, params, search.is_literal)

    def _result(
        self, found: list[_Match], params: GrepSearchParams, is_literal: bool
    ) -> ToolResult:
        note = "[not a regular expression; searched for as it stands]\n" if is_literal else ""
        if not found:
            where = f" in {params.glob} files" if params.glob else ""
            return ToolResult(content=f"{note}No matches for {params.pattern!r}{where}.")
        lines = [
            f"{shown_path(self._workspace, match.path)}:{match.line}:"
            f"{limit_line(match.text, MAX_LINE_CHARS)}"
            for match in found[: params.limit]
        ]
        if len(found) > params.limit:
            lines.append(f"[more than {params.limit} matches; narrow the pattern, path or glob]")
        count = min(len(found), params.limit)
        return ToolResult(
            content=note + limit_text("\n".join(lines), MAX_CHARS, tail_chars=0),
            display=TextDisplay(text=f"{count} matches"),
        )

    def _by_walk(self, search: _Search) -> list[_Match]:
        pattern = re.escape(search.pattern) if search.is_literal else search.pattern
        expression = re.compile(pattern, re.IGNORECASE)
        found: list[_Match] = []
        for file in self._files(search):
            for number, line in enumerate(_text_lines(file), 1):
                if expression.search(line):
                    found.append(_Match(file, number, line))
                    if len(found) == search.limit:
                        return found
        return found

    def _files(self, search: _Search) -> Iterator[Path]:
        if search.target.is_file():
            yield search.target
            return
        wanted = _FileFilter(search.glob)
        for file in walk_files(self._workspace.root, search.target):
            name = file.relative_to(search.target).as_posix()
            if wanted(name) and not is_secret_file(self._workspace, file):
                yield file

    async def _by_ripgrep(self, program: str, search: _Search) -> list[_Match]:
        arguments = [
            "--json", "--ignore-case", "--hidden", "--no-config", "--no-require-git",
            "--sort", "path", "--max-filesize", str(MAX_FILE_BYTES), "--glob", "!.git/",
            "--glob", "!node_modules/", "--glob", "!__pycache__/", "--glob", "!.venv/",
        ]  # fmt: skip
        if search.is_literal:
            arguments.append("--fixed-strings")
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            "--regexp",
            search.pattern,
            "--",
            str(search.target),
            cwd=self._workspace.root,
            env=child_environment({"PATH": "/usr/bin:/bin"}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=16 * MAX_FILE_BYTES,
            start_new_session=True,
        )
        found: list[_Match] = []
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                await self._collect(process, search, found)
        except TimeoutError:
            raise ToolError("the search took too long; narrow path or glob") from None
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        return found

    async def _collect(
        self, process: asyncio.subprocess.Process, search: _Search, found: list[_Match]
    ) -> None:
        wanted = _FileFilter(search.glob)
        is_file = search.target.is_file()
        assert process.stdout is not None
        async for line in process.stdout:
            match = _read_match(line)
            if match is None:
                continue
            if not is_file and (
                not wanted(match.path.relative_to(search.target).as_posix())
                or is_secret_file(self._workspace, match.path)
            ):
                continue
            found.append(match)
            if len(found) == search.limit:
                return


def _read_match(line: bytes) -> _Match | None:
    """One line of ripgrep's JSON; None if it tells of no match."""
    event = json.loads(line)
    if event["type"] != "match":
        return None
    data = event["data"]
    path, text = data["path"].get("text"), data["lines"].get("text")
    if path is None:
        return None
    return _Match(Path(path), data["line_number"], (text or "").rstrip("\r\n"))


class _FileFilter:
    """Whether a path is asked for. A glob without a slash is about names at any depth."""

    def __init__(self, glob: str | None) -> None:
        pattern = glob if glob is None or "/" in glob else f"**/{glob}"
        self._expression = None if pattern is None else compile_glob(pattern)

    def __call__(self, path: str) -> bool:
        return self._expression is None or self._expression.fullmatch(path) is not None


def _is_regular_expression(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _text_lines(file: Path) -> Iterable[str]:
    """The lines of a text file; none of a binary, huge or unreadable one."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return ()
        data = file.read_bytes()
    except OSError:
        return ()
    if b"\0" in data:
        return ()
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
