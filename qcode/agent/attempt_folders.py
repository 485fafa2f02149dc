"""Copies of a project in which attempts work side by side, and the way back for what one changed.

In a git repository each copy is a worktree of its own, so that git commands work in it; the user's
index, branches and files are not touched. No hook, filter or file monitor of the repository runs:
the files are copied byte for byte, untracked ones too. Elsewhere the copy is a plain one. What the
repository ignores is linked to where it is, so that installed packages are found.

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from qcode.agent.attempt_claims import ClaimedFolder, remove_abandoned
from qcode.agent.file_changes import FileChange, read_state
from qcode.protocol.errors import TaskNotDone

_GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
_CACHES = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"})
_LINKED_OUTSIDE_GIT = frozenset({"node_modules", ".venv", "venv", "target"})
_MAX_BYTES = 2 << 30


class AttemptFolders:
    """`base` is the project as it was at the beginning; every attempt is compared with it. What
    killed processes have left of theirs is taken away first."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        top = _git_top(self.root)
        self._is_git = top is not None
        self._top = self.root if top is None else top
        self._within = self.root.relative_to(self._top)
        self._linked = self._ignored() if self._is_git else ()
        remove_abandoned(_forget_worktree)
        self._claimed = ClaimedFolder(self._top)
        self._parent = self._claimed.path
        self._base = self._parent / "base"
        self._folders: list[Path] = []

    def prepare(self) -> None:
        """Copies the project once. Raises `TaskNotDone` where it is too large."""
        self._base.mkdir()
        total = 0
        for path in self._paths(self._top):
            source = self._top / path
            total += source.lstat().st_size
            if total > _MAX_BYTES:
                raise TaskNotDone(f"The project is larger than {_MAX_BYTES >> 30} GiB to copy.")
            _copy(source, self._base / path)

    def create(self) -> Path:
        """Another attempt's working directory."""
        folder = self._parent / f"attempt-{len(self._folders) + 1}"
        if self._is_git:
            _git(self._top, "worktree", "add", "--quiet", "--no-checkout", "--detach", str(folder))
        self._folders.append(folder)
        folder.mkdir(exist_ok=True)
        if self._is_git:
            _git(folder, "read-tree", "HEAD")
        for path in _walk(self._base, frozenset()):
            _copy(self._base / path, folder / path)
        for path in self._links(folder):
            (folder / path).symlink_to(self._top / path)
        return folder / self._within

    def changes(self, attempt: Path) -> tuple[FileChange, ...]:
        """What an attempt made of the project, by paths from its top."""
        folder = next(item for item in self._folders if attempt.is_relative_to(item))
        links = set(self._links_made(folder))
        before = set(_walk(self._base, frozenset()))
        after = {path for path in self._paths(folder) if path not in links}
        after |= {path for path in before if os.path.lexists(folder / path)}
        return tuple(
            FileChange(
                path=path, before=read_state(self._base / path), after=read_state(folder / path)
            )
            for path in sorted(before | after)
            if not _same(self._base / path, folder / path)
        )

    @property
    def top(self) -> Path:
        """The folder that paths of changes start from."""
        return self._top

    def remove(self) -> None:
        """Takes away every copy, and what git noted of them."""
        if self._is_git:
            for folder in self._folders:
                _forget_worktree(self._top, folder)
        self._claimed.release()
        if self._is_git:
            _git(self._top, "worktree", "prune", check=False)

    def _paths(self, top: Path) -> list[str]:
        if not self._is_git:
            return list(_walk(top, _LINKED_OUTSIDE_GIT))
        listed = _git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        paths = dict.fromkeys(path for path in listed.split("\0") if path)
        return [path for path in paths if _is_file(top / path)]

    def _ignored(self) -> tuple[str, ...]:
        listed = _git(
            self._top, "ls-files", "-z", "--others", "--ignored", "--exclude-standard",
            "--directory",
        )  # fmt: skip
        paths = (path.rstrip("/") for path in listed.split("\0") if path)
        return tuple(path for path in paths if not _CACHES & set(path.split("/")))

    def _links(self, folder: Path) -> Iterator[str]:
        """What an attempt finds where it is, by a link."""
        paths = self._linked
        if not self._is_git:
            paths = tuple(n for n in _LINKED_OUTSIDE_GIT if (self._top / n).is_dir())
        for path in paths:
            place = folder / path
            if place.parent.is_dir() and not os.path.lexists(place):
                yield path

    def _links_made(self, folder: Path) -> Iterator[str]:
        for path in (*self._linked, *_LINKED_OUTSIDE_GIT):
            if (folder / path).is_symlink() and not os.path.lexists(self._base / path):
                yield path


def _forget_worktree(top: Path, folder: Path) -> None:
    _git(top, "worktree", "remove", "--force", str(folder), check=False)


def _git_top(root: Path) -> Path | None:
    """The top of the repository that `root` is in; None where that has no commit yet, or ignores
    `root` with all that is in it."""
    if shutil.which("git") is None:
        return None
    try:
        top = _git(root, "rev-parse", "--show-toplevel").strip()
        _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not _git(root, "ls-files", "--cached", "--others", "--exclude-standard"):
            return None
    except TaskNotDone:
        return None
    return Path(top).resolve()


def _git(directory: Path, *arguments: str, check: bool = True) -> str:
    """The output. Raises `TaskNotDone` where git fails. What the user's shell says of git's own
    folders is left out: it would lead to the user's index."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    run = subprocess.run(
        [*_GIT, *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if check and run.returncode != 0:
        reason = run.stderr.decode(errors="replace").strip()
        raise TaskNotDone(f"git {arguments[0]} failed: {reason[:300]}")
    return run.stdout.decode(errors="surrogateescape")


def _walk(top: Path, left_out: frozenset[str]) -> Iterator[str]:
    for folder, directories, names in os.walk(top):
        directories[:] = sorted(
            name
            for name in directories
            if name not in _CACHES and name not in left_out and name != ".git"
        )
        base = Path(folder).relative_to(top)
        links = [name for name in directories if (Path(folder) / name).is_symlink()]
        for name in (*sorted(names), *links):
            if name != ".git" and _is_file(Path(folder) / name):
                yield (base / name).as_posix()


def _is_file(path: Path) -> bool:
    """A regular file or a link; not a directory, a socket or a submodule."""
    return path.is_symlink() or path.is_file()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink() or not (one.exists() and other.exists()):
        return read_state(one) == read_state(other)
    same_mode = (one.stat().st_mode & 0o111) == (other.stat().st_mode & 0o111)
    return same_mode and filecmp.cmp(one, other, shallow=False)
