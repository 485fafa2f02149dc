"""Walk a directory as a person sees it: without what .gitignore leaves out.

One pattern set per directory level, as git reads them: the deepest file that has an opinion
decides, and what is below an ignored directory stays ignored.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_FILES = 200_000
_IGNORE_FILES = (".gitignore", ".ignore", ".qcodeignore")
_ALWAYS_IGNORED = frozenset({".git", ".hg", ".svn"})
_USUALLY_GENERATED = frozenset({"__pycache__", "node_modules", ".venv"})


@dataclass(frozen=True, slots=True)
class _Level:
    """One directory's patterns; paths are matched relative to `directory`."""

    directory: str
    spec: GitIgnoreSpec


class IgnoreRules:
    """The ignore files from the workspace root down to one directory."""

    def __init__(self, levels: tuple[_Level, ...] = ()) -> None:
        self._levels = levels

    @classmethod
    def down_to(cls, root: Path, directory: Path) -> IgnoreRules:
        """The rules that hold in `directory`, which lies in `root` or is it."""
        rules = cls().entering(str(root))
        here = root
        for part in directory.relative_to(root).parts:
            here = here / part
            rules = rules.entering(str(here))
        return rules

    def entering(self, directory: str) -> IgnoreRules:
        lines: list[str] = []
        for name in _IGNORE_FILES:
            file = Path(directory, name)
            try:
                if file.is_file():
                    lines += file.read_text("utf-8", "replace").splitlines()
            except OSError:
                continue
        if not lines:
            return self
        return IgnoreRules((*self._levels, _Level(directory, _spec(lines))))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        for level in reversed(self._levels):
            relative = path[len(level.directory.rstrip("/")) + 1 :]
            verdict = level.spec.check_file(relative + "/" if is_directory else relative).include
            if verdict is not None:
                return verdict
        return False


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    """Lines that are no patterns are left out, as git does."""
    from pathspec import GitIgnoreSpec  # late: slow to load, and many a session walks no folder

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        good = []
        for line in lines:
            try:
                GitIgnoreSpec.from_lines([line])
            except ValueError:
                continue
            good.append(line)
        return GitIgnoreSpec.from_lines(good)


def is_left_out(entry: os.DirEntry[str], rules: IgnoreRules | None) -> bool:
    """`rules` None: only what is never of interest is left out."""
    if entry.name in _ALWAYS_IGNORED:
        return True
    if rules is None:
        return False
    is_directory = entry.is_dir(follow_symlinks=False)
    if is_directory and entry.name in _USUALLY_GENERATED:
        return True
    return rules.ignores(entry.path, is_directory=is_directory)


def walk_files(root: Path, directory: Path, *, respect_ignore: bool = True) -> Iterator[Path]:
    """Regular files below `directory`, sorted by path. `root` is where ignore files begin to count
    (the workspace); links are not followed. Stops after `MAX_FILES`."""
    rules: IgnoreRules | None = None
    if respect_ignore:
        inside = directory == root or root in directory.parents
        rules = (
            IgnoreRules.down_to(root, directory)
            if inside
            else IgnoreRules().entering(str(directory))
        )
    yield from map(Path, itertools.islice(_walk(str(directory), rules), MAX_FILES))


def _walk(directory: str, rules: IgnoreRules | None) -> Iterator[str]:
    try:
        with os.scandir(directory) as scan:
            entries = [entry for entry in scan if not is_left_out(entry, rules)]
    except OSError:
        return
    entries.sort(key=lambda entry: entry.name)
    for entry in entries:
        if _is_directory(entry):
            yield from _walk(entry.path, rules.entering(entry.path) if rules else None)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)
