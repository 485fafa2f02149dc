"""Permission rules: `Tool` or `Tool(pattern)`.

`Bash(git diff:*)` matches commands whose first words are `git diff`, `Bash(npm test)` that command
word for word, `Edit(src/**)` and `Read(~/notes/**)` paths by gitignore globs: relative to the
workspace, from the home directory with `~/`, absolute with `//`. Tools may also be named as the
model calls them.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.protocol.errors import SettingsError
from qcode.protocol.permissions import Access, PermissionRequest, SimpleCommand
from qcode.protocol.values import dataclass

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_GROUPS: dict[str, Access] = {
    "Edit": Access.EDIT,
    "Read": Access.READ,
    "WebFetch": Access.NETWORK,
}
_SHELL = "run_shell_command"
_ALIASES = {"Bash": _SHELL, "Shell": _SHELL, "Write": "Edit", "web_fetch": "WebFetch"}
_FILE_TOOLS = frozenset(
    {"Edit", "Read", "read_file", "write_file", "edit", "list_directory", "glob", "grep_search"}
)
_OTHER_TOOLS = frozenset({_SHELL, "todo_write", "ask_user_question", "task", "skill"})
_RULE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)(?:\((.*)\))?", re.DOTALL)
_HOST = re.compile(r"domain:(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`source` is the rule as written. `words` is for commands: all of them (`is_prefix`: at
    least these); `paths` for files. All None: every use of the tool."""

    source: str
    tool: str
    words: tuple[str, ...] | None = None
    is_prefix: bool = False
    paths: GitIgnoreSpec | None = None
    base: Path | None = None
    host: str | None = None

    @property
    def is_bare(self) -> bool:
        return self.words is None and self.paths is None and self.host is None

    def covers_tool(self, request: PermissionRequest) -> bool:
        """`Edit` and `Read` stand for every tool with that access, other names for one."""
        access = _GROUPS.get(self.tool)
        return request.access is access if access is not None else request.tool == self.tool

    def matches_command(self, command: SimpleCommand) -> bool:
        if self.words is None:
            return self.is_bare
        length = len(self.words)
        if any(index < length for index in command.expands) and self.is_prefix:
            return False
        argv = command.argv
        return argv[:length] == self.words if self.is_prefix else argv == self.words

    def matches_path(self, path: Path, workspace_root: Path) -> bool:
        if self.paths is None:
            return self.is_bare
        try:
            relative = path.relative_to(self.base or workspace_root)
        except ValueError:
            return False
        return self.paths.match_file(relative.as_posix())


def parse_rule(source: str) -> Rule:
    """Raises `SettingsError` naming the rule: a rule that silently matches nothing is a hole."""
    match = _RULE.fullmatch(source.strip())
    if match is None:
        raise _malformed(source, "expected Tool or Tool(pattern)")
    name, pattern = match.groups()
    tool = _ALIASES.get(name, name)
    if not (tool in _GROUPS or tool in _FILE_TOOLS | _OTHER_TOOLS or tool.startswith("mcp__")):
        raise _malformed(source, f"there is no tool {name}")
    if pattern is None:
        return Rule(source=source, tool=tool)
    pattern = pattern.strip()
    if not pattern:
        raise _malformed(source, "the pattern is empty")
    if tool == _SHELL:
        return _command_rule(source, pattern)
    if tool == "WebFetch":
        if not _HOST.fullmatch(pattern):
            raise _malformed(source, "expected domain:HOST or domain:*.HOST")
        return Rule(source=source, tool=tool, host=pattern.removeprefix("domain:"))
    if tool not in _FILE_TOOLS:
        raise _malformed(source, f"{name} takes no pattern")
    return _path_rule(source, tool, pattern)


def _command_rule(source: str, pattern: str) -> Rule:
    is_prefix = pattern.endswith(":*")
    try:
        words = tuple(shlex.split(pattern.removesuffix(":*")))
    except ValueError as error:
        raise _malformed(source, str(error).lower()) from None
    if not words:
        raise _malformed(source, "it names no command")
    if not is_prefix and pattern.endswith("*") and words[-1] == "*":
        raise _malformed(source, f"for any arguments write {pattern.removesuffix('*').strip()}:*")
    return Rule(source=source, tool=_SHELL, words=words, is_prefix=is_prefix)


def _path_rule(source: str, tool: str, pattern: str) -> Rule:
    base: Path | None = None
    if pattern.startswith("//"):
        base, pattern = Path("/"), pattern[1:]
    elif pattern.startswith("~/"):
        base, pattern = Path(os.path.realpath(Path.home())), pattern[1:]
    if pattern.startswith(("!", "#")):
        raise _malformed(source, f"a pattern cannot begin with {pattern[0]!r}")
    if ".." in pattern.split("/"):
        raise _malformed(source, "a pattern cannot hold ..; write an absolute one with //")
    if pattern.count("[") != pattern.count("]"):
        raise _malformed(source, "a bracket is not closed")
    try:
        from pathspec import GitIgnoreSpec  # late: slow to load, and few rules are about paths

        paths = GitIgnoreSpec.from_lines([pattern])
    except ValueError as error:
        raise _malformed(source, str(error)) from error
    return Rule(source=source, tool=tool, paths=paths, base=base)


def _malformed(source: str, reason: str) -> SettingsError:
    return SettingsError(
        f"malformed permission rule {source!r}: {reason}",
        hint="examples: Edit, Edit(src/**), Bash(pytest:*), Bash(npm test), Read(//etc/hosts)",
    )
