"""The permission policy: a request, the mode and the rules in; allow, ask or deny out. Pure.

The first that speaks decides: deny rules; the floor, which asks in every mode; ask rules; what
plan mode denies; allow rules; the safe commands; the mode's default. A deny rule stands before the
floor because a question may be answered yes. "Ask" becomes "no" where nobody can be asked: that is
the approver's part.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path

from qcode.agent.permission_rules import Rule, parse_rule
from qcode.agent.safe_commands import is_safe, runs_others, wrapped_command, wrapped_commands
from qcode.protocol.permissions import (
    Access,
    Mode,
    PermissionRequest,
    ShellAnalysis,
    SimpleCommand,
    Verdict,
)
from qcode.sandbox.sensitive_paths import is_protected

# Each begins where a word does: a search that may begin anywhere takes time to the square.
_FUNCTION = re.compile(r"(?<![^(){};|&])([^(){};|&]+)\(\);?\{")
_PIPE_TO_BACKGROUND = re.compile(r"(?<![^(){};|&])([^(){};|&]+)\|([^(){};|&]+)&")
_BLOCK_DEVICE = re.compile(r"/dev/(sd|hd|vd|xvd|nvme|mmcblk|disk|dm-|md|loop|mapper/).*")
_NETWORK_DEVICE = re.compile(r"/dev/(tcp|udp)/")
# Programs whose second word says what they do, so that a rule for one use is no rule for all.
_SUBCOMMANDS = frozenset({"git", "npm", "yarn", "pnpm", "cargo", "go", "uv", "pip", "docker"})
_DIRECTORY_TOOLS = frozenset({"list_directory", "glob", "grep_search"})
_RUNNERS = frozenset({"pytest", "ruff", "mypy", "tox", "nox", "jest", "vitest", "eslint", "tsc"})
_MODULES = _RUNNERS | {"unittest"}


class PermissionPolicy:
    """A value: what changes it returns another one. Raises `SettingsError` naming the first
    malformed rule."""

    def __init__(
        self,
        *,
        mode: Mode,
        workspace_root: Path,
        allow: Sequence[str] = (),
        ask: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        self.mode = mode
        self.workspace_root = Path(os.path.realpath(workspace_root))
        self._allow = tuple(parse_rule(rule) for rule in allow)
        self._ask = tuple(parse_rule(rule) for rule in ask)
        self._deny = tuple(parse_rule(rule) for rule in deny)

    def with_mode(self, mode: Mode) -> PermissionPolicy:
        changed = copy(self)
        changed.mode = mode
        return changed

    def with_session_rule(self, rule: str) -> PermissionPolicy:
        """This policy and one more allow rule."""
        changed = copy(self)
        changed._allow = (*self._allow, parse_rule(rule))
        return changed

    def suggested_rule(self, request: PermissionRequest) -> str | None:
        return suggested_rule(request)

    def decide(self, request: PermissionRequest) -> Verdict:
        return (
            self._forbidden(request, self._deny, "deny")
            or self._floor(request)
            or self._forbidden(request, self._ask, "ask")
            or self._plan(request)
            or self._allowed(request)
            or self._safe(request)
            or self._default(request)
        )

    def _forbidden(
        self, request: PermissionRequest, rules: tuple[Rule, ...], decision: str
    ) -> Verdict | None:
        for rule in rules:
            if self._touches(rule, request):
                reason = f"{decision} rule {rule.source}"
                return _deny(reason) if decision == "deny" else _ask(reason)
        return None

    def _touches(self, rule: Rule, request: PermissionRequest) -> bool:
        """One part of the request that the rule names is enough."""
        if rule.paths is not None and rule.tool == "Edit" and request.shell is not None:
            targets = [t for command in request.shell.commands for t in command.writes_to]
            return any(self._matches_path(rule, target) for target in targets)
        if not rule.covers_tool(request):
            return False
        if rule.is_bare:
            return True
        if rule.words is not None:
            return any(_names_command(rule, argv) for argv in _every_command(request.shell))
        if rule.host is not None:
            return _host_matches(rule.host, request.target)
        return self._matches_path(rule, request.target)

    def _matches_path(self, rule: Rule, target: str) -> bool:
        path = Path(os.path.normpath(self.workspace_root / target))
        return rule.matches_path(path, self.workspace_root)

    def _floor(self, request: PermissionRequest) -> Verdict | None:
        if request.access is Access.EDIT and request.protected:
            return _ask("this file can run code or steer the agent")
        if request.access is Access.EXECUTE:
            danger = _danger(request, self.workspace_root)
            if danger is not None:
                return _ask(danger)
        return None

    def _plan(self, request: PermissionRequest) -> Verdict | None:
        if self.mode is not Mode.PLAN:
            return None
        if request.access is Access.EDIT:
            return _deny("plan mode changes no files")
        if request.access is Access.EXECUTE and self._safe(request) is None:
            return _deny("plan mode runs only commands that read")
        return None

    def _allowed(self, request: PermissionRequest) -> Verdict | None:
        rules = [rule for rule in self._allow if rule.covers_tool(request)]
        if request.access is Access.EXECUTE and request.shell is not None:
            return _allowed_commands(rules, request, request.shell)
        for rule in rules:
            if rule.host is not None:
                matches = _host_matches(rule.host, request.target)
            elif rule.is_bare:
                # A word for all files is no word for secrets, nor for files elsewhere.
                matches = request.access not in {Access.READ, Access.EDIT} or (
                    request.inside_workspace and not request.protected
                )
            else:
                matches = self._matches_path(rule, request.target)
            if matches:
                return _allow(f"allow rule {rule.source}")
        return None

    def _safe(self, request: PermissionRequest) -> Verdict | None:
        if request.access is not Access.EXECUTE or request.shell is None:
            return None
        if request.shell.opaque or not request.inside_workspace or request.protected:
            return None
        commands = request.shell.commands
        if commands and all(is_safe(command) for command in commands):
            return _allow("only reads")
        return None

    def _default(self, request: PermissionRequest) -> Verdict:
        if self.mode is Mode.YOLO:
            return _allow("yolo mode")
        if request.access is Access.READ and request.protected:
            return _ask("this file may hold secrets")
        if not request.inside_workspace and request.access in {Access.READ, Access.EDIT}:
            return _ask("outside the workspace")
        if request.access is Access.READ:
            return _allow("reads in the workspace")
        if request.access is Access.EDIT and self.mode is Mode.AUTO_EDIT:
            return _allow("auto-edit mode")
        return _ask(_why_ask(request))


def suggested_rule(request: PermissionRequest) -> str | None:
    """A rule that would allow this and its like, for "session" and "always" answers: files of the
    same directory, the same use of the same program. None where no rule should."""
    if request.protected:
        return None
    if request.access is Access.EXECUTE:
        return _suggested_command_rule(request.shell)
    if request.access is Access.NETWORK:
        return None
    name = "Edit" if request.access is Access.EDIT else "Read"
    target = Path(request.target)
    if not target.is_absolute():
        return None
    if request.tool in _DIRECTORY_TOOLS:
        return f"{name}(/{target.as_posix()})"
    return f"{name}(/{target.parent.as_posix()}/**)"


def _suggested_command_rule(shell: ShellAnalysis | None) -> str | None:
    if shell is None or shell.opaque:
        return None
    wanted = [command for command in shell.commands if not is_safe(command)]
    if len(wanted) != 1 or wanted[0].writes_to or wanted[0].expands or runs_others(wanted[0].argv):
        return None
    argv = wanted[0].argv
    if argv[0] in _RUNNERS:
        return f"Bash({argv[0]}:*)"
    if argv[0] in _SUBCOMMANDS and len(argv) > 1 and not argv[1].startswith("-"):
        return f"Bash({shlex.join(argv[:2])}:*)"
    python = Path(argv[0]).name in {"python", "python3"}
    if python and len(argv) > 2 and argv[1] == "-m" and argv[2] in _MODULES:
        return f"Bash({shlex.join(argv[:3])}:*)"
    return f"Bash({shlex.join(argv)})"


def _allowed_commands(
    rules: list[Rule], request: PermissionRequest, shell: ShellAnalysis
) -> Verdict | None:
    """Every command of the line needs a rule, or is safe beside one that has."""
    bare = next((rule for rule in rules if rule.is_bare), None)
    if bare is not None:
        return _allow(f"allow rule {bare.source}")
    if shell.opaque or not shell.commands:
        return None
    may_read = request.inside_workspace and not request.protected
    used: list[str] = []
    for command in shell.commands:
        rule = None if command.writes_to else _covering(rules, command)
        if rule is not None:
            used.append(rule.source)
        elif not (may_read and is_safe(command)):
            return None
    return _allow(f"allow rule {used[0]}") if used else None


def _covering(rules: list[Rule], command: SimpleCommand) -> Rule | None:
    if not command.argv:
        return None
    for rule in rules:
        if not rule.matches_command(command):
            continue
        if not rule.is_prefix or not runs_others(command.argv):
            return rule
        inner = wrapped_command(command.argv)
        if inner is not None and not command.expands:
            covered = _covering(rules, SimpleCommand(argv=inner))
            if covered is not None:
                return covered
    return None


def _names_command(rule: Rule, argv: tuple[str, ...]) -> bool:
    plain = (argv[0].rsplit("/", 1)[-1], *argv[1:])
    return any(rule.matches_command(SimpleCommand(argv=words)) for words in (argv, plain))


def _every_command(shell: ShellAnalysis | None) -> Iterator[tuple[str, ...]]:
    """All commands of a line and all that they may run, for rules that forbid."""
    pending = [command.argv for command in (shell.commands if shell else ()) if command.argv]
    seen: set[tuple[str, ...]] = set()
    while pending:
        argv = pending.pop()
        if argv not in seen:
            seen.add(argv)
            yield argv
            pending += wrapped_commands(argv)


def _danger(request: PermissionRequest, root: Path) -> str | None:
    """Why this asks in every mode."""
    if _calls_itself_twice(request.target):
        return "it starts processes without end"
    for command in request.shell.commands if request.shell else ():
        for target in command.writes_to:
            if _BLOCK_DEVICE.fullmatch(target):
                return "it writes to a disk device"
            if is_protected(Path(target)):
                return f"it writes to {target}, which can run code or steer the agent"
    for argv in _every_command(request.shell):
        name = argv[0].rsplit("/", 1)[-1]
        if name == "mkfs" or name.startswith("mkfs."):
            return "it makes a file system"
        if name == "dd" and any(
            word.startswith("of=") and _BLOCK_DEVICE.fullmatch(word[3:]) for word in argv
        ):
            return "it writes to a disk device"
        if name == "rm" and _removes_everything(argv[1:], root):
            return "it deletes a whole tree that cannot be replaced"
    return None


def _calls_itself_twice(line: str) -> bool:
    """A function that pipes itself into itself in the background: `:(){ :|:& };:`."""
    squeezed = "".join(line.replace("\n", ";").split())
    names = {match.group(1) for match in _FUNCTION.finditer(squeezed)}
    return any(
        match.group(1) == match.group(2) and match.group(1) in names
        for match in _PIPE_TO_BACKGROUND.finditer(squeezed)
    )


def _removes_everything(arguments: tuple[str, ...], root: Path) -> bool:
    flags = [word for word in arguments if word.startswith("-")]
    if not any(word == "--recursive" or re.match(r"-[^-]*[rR]", word) for word in flags):
        return False
    home = Path(os.path.realpath(Path.home()))
    vital = {root, home, *root.parents, *home.parents}
    for word in arguments:
        bare = re.sub("[\"']", "", word).rstrip("/*")
        if bare in {"", ".", "..", "~", "$HOME", "${HOME}", "$PWD", "${PWD}"}:
            return True
        path = Path(os.path.normpath(root / bare))
        if path in vital or path.name.casefold() == ".git":
            return True
    return False


def _host_matches(pattern: str, url: str) -> bool:
    match = re.match(r"https?://(?:[^/@]*@)?([^/:?#]+)", url, re.IGNORECASE)
    if match is None:
        return False
    host = match.group(1).lower().rstrip(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _why_ask(request: PermissionRequest) -> str:
    if request.access is Access.EDIT:
        return "edits ask in this mode"
    if request.access is Access.NETWORK:
        return "it uses the network"
    shell = request.shell
    if shell is None:
        return "it may change things"
    if shell.opaque:
        return f"the line holds {shell.opaque}"
    for command in shell.commands:
        for target in command.writes_to:
            if _NETWORK_DEVICE.match(target):
                return "it uses the network"
            return f"it writes to {target}"
    unsafe = next((c.argv[0] for c in shell.commands if c.argv and not is_safe(c)), None)
    if unsafe is not None:
        return f"{unsafe} may change things"
    return "it reads secrets or files outside the workspace"


def _allow(reason: str) -> Verdict:
    return Verdict(decision="allow", reason=reason)


def _ask(reason: str) -> Verdict:
    return Verdict(decision="ask", reason=reason)


def _deny(reason: str) -> Verdict:
    return Verdict(decision="deny", reason=reason)
