"""What a command line could touch, by the words in it: the facts a permission decision needs that
only the file system knows."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

from qcode.protocol.permissions import ShellAnalysis, SimpleCommand
from qcode.protocol.values import dataclass
from qcode.sandbox.sensitive_paths import is_secret
from qcode.sandbox.workspace import Workspace
from qcode.tools.repository_config import repository_runs_programs

_HARMLESS = frozenset({"/dev/null", ""})
_SEARCHES_TREES = frozenset({"grep", "egrep", "fgrep", "rg", "diff"})
_NO_VALUE = re.compile(r"-[EFGPrnilwHhcoqsvxLu]+|--[a-z-]+=.*|--color|--ignore-case|--recursive")
_MAX_EXPANDED = 1000
_MAX_TREE_ENTRIES = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFacts:
    """`inside_workspace`: no word of the line, read as a path, leads out. `sensitive`: one names a
    secret, or a repository's configuration makes git run programs, or the workspace holds a
    program by the name of a command."""

    inside_workspace: bool
    sensitive: bool


def line_facts(
    analysis: ShellAnalysis, *, workspace: Workspace, directory: Path, search_path: str
) -> LineFacts:
    """Reads the file system; changes nothing. Every word counts as a possible path, in every
    directory the line may change to: too careful now and then, never too trusting."""
    directories = _directories(analysis, workspace, directory)
    inside = all(workspace.contains(place) for place in directories)
    sensitive = False
    for command in analysis.commands:
        for path in _paths(command, directories, workspace):
            inside = inside and workspace.contains(path)
            sensitive = sensitive or is_secret(_within(workspace, path))
        sensitive = sensitive or _is_local_program(command, workspace, search_path)
    if inside and not sensitive:
        names = {command.argv[0] for command in analysis.commands if command.argv}
        sensitive = (
            "git" in names and any(repository_runs_programs(place) for place in directories)
        ) or any(_tree_may_hold_secrets(command, directories) for command in analysis.commands)
    return LineFacts(inside_workspace=inside, sensitive=sensitive)


def _directories(analysis: ShellAnalysis, workspace: Workspace, start: Path) -> list[Path]:
    """Where the line's commands may run: any `cd` may or may not have been taken."""
    places = [start]
    for command in analysis.commands:
        if command.argv[:1] == ("cd",):
            for word in command.argv[1:2]:
                places += [workspace.resolve(str(place / word)) for place in places]
        if len(places) > 64:
            return [Path("/")]  # more than any honest line; as good as outside
    return places


def _paths(command: SimpleCommand, directories: list[Path], workspace: Workspace) -> Iterator[Path]:
    """Every word, and what follows `=` or `:` or a short flag in it, as a resolved path."""
    words = [*command.argv[1:], *command.reads_from]
    expanding = {command.argv[index] for index in command.expands}
    for word in words:
        for part in _parts(word):
            if part in _HARMLESS or "\0" in part:
                continue
            for directory in directories:
                joined = str(directory / os.path.expanduser(part))  # noqa: PTH111
                yield workspace.resolve(joined)
                if word in expanding:
                    matches = islice(glob.iglob(joined), _MAX_EXPANDED)  # noqa: PTH207
                    yield from (workspace.resolve(match) for match in matches)


def _parts(word: str) -> Iterator[str]:
    yield word
    for separator in "=:":
        _, found, rest = word.partition(separator)
        if found:
            yield rest
    if word.startswith("-") and len(word) > 2:
        yield word[2:]


def _within(workspace: Workspace, path: Path) -> Path:
    return path.relative_to(workspace.root) if workspace.contains(path) else path


def _is_local_program(command: SimpleCommand, workspace: Workspace, search_path: str) -> bool:
    """A program of the workspace may carry the name of one that only reads."""
    if not command.argv:
        return False
    found = shutil.which(command.argv[0], path=search_path)
    if found is None:
        return False
    return not os.path.isabs(found) or workspace.contains(Path(os.path.normpath(found)))  # noqa: PTH117


def _tree_may_hold_secrets(command: SimpleCommand, directories: list[Path]) -> bool:
    """A search through directories reads the secrets in them, hidden or not."""
    if not command.argv or command.argv[0] not in _SEARCHES_TREES:
        return False
    words = command.argv[1:]
    places = words if len(_operands(words)) > 1 else (".", *words)
    for directory in directories:
        for word in places:
            place = directory / word
            if place.is_dir() and _holds_secrets(place):
                return True
    return False


def _operands(words: tuple[str, ...]) -> list[str]:
    """Words that are certainly no flags and no values of flags."""
    return [
        word
        for previous, word in pairwise(("", *words))
        if not word.startswith("-")
        and (not previous.startswith("-") or _NO_VALUE.fullmatch(previous))
    ]


def _holds_secrets(directory: Path) -> bool:
    """Also True where there are too many files to tell."""
    seen = 0
    for folder, folders, files in os.walk(directory):
        if ".git" in folders:
            folders.remove(".git")
        seen += len(folders) + len(files)
        if seen > _MAX_TREE_ENTRIES:
            return True
        relative = Path(os.path.relpath(folder, directory))
        if any(is_secret(relative / name) for name in (*files, *folders)):
            return True
    return False
