"""Attempts see the project as it is, change only their copy, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qcode.agent.attempt_folders import AttemptFolders
from qcode.agent.file_changes import (
    ChangedMeanwhile,
    FileChange,
    FileState,
    apply_changes,
    as_patch,
    read_state,
)


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Committed, staged, changed, untracked and ignored files; a subfolder to work in."""
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "a.txt").write_bytes(b"one\r\ntwo\n")
    (root / "gone.txt").write_text("deleted by the user\n")
    (root / "sub" / "b.py").write_text("b = 1\n")
    (root / ".gitignore").write_text("packages/\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    (root / "sub" / "b.py").write_text("b = 2\n")
    git(root, "add", "sub/b.py")
    (root / "sub" / "b.py").write_text("b = 3\n")
    (root / "gone.txt").unlink()
    (root / "new.txt").write_text("untracked\n")
    (root / "packages").mkdir()
    (root / "packages" / "lib.py").write_text("installed = True\n")
    return root


def snapshot(root: Path) -> dict[str, bytes]:
    """All files, git's index, references and configuration among them; its store of objects only
    grows, and an attempt may add to it."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".git/objects" not in str(path)
    }


def test_a_copy_holds_what_the_user_sees_and_git_works_in_it(repository: Path) -> None:
    folders = AttemptFolders(repository / "sub")
    try:
        folders.prepare()
        folder = folders.create()
        assert folder.name == "sub"
        assert (folder / "b.py").read_text() == "b = 3\n"
        assert (folder.parent / "a.txt").read_bytes() == b"one\r\ntwo\n"
        assert (folder.parent / "new.txt").read_text() == "untracked\n"
        assert not (folder.parent / "gone.txt").exists()
        assert (folder.parent / "packages" / "lib.py").read_text() == "installed = True\n"
        assert "sub/b.py" in git(folder, "status", "--porcelain")
        assert folders.changes(folder) == ()
    finally:
        folders.remove()


def test_nothing_of_the_users_changes_and_nothing_is_left(repository: Path) -> None:
    status = git(repository, "status", "--porcelain")
    before = snapshot(repository)
    folders = AttemptFolders(repository)
    folders.prepare()
    places = [folders.create(), folders.create()]
    (places[0] / "a.txt").write_text("changed")
    git(places[0], "add", "-A")
    folders.remove()
    assert snapshot(repository) == before
    assert git(repository, "status", "--porcelain") == status
    assert git(repository, "worktree", "list").count("\n") == 1
    assert not any(place.exists() for place in places)


def test_a_folder_that_the_repository_ignores_is_copied_by_itself(repository: Path) -> None:
    folders = AttemptFolders(repository / "packages")
    try:
        folders.prepare()
        folder = folders.create()
        (folder / "lib.py").write_text("installed = False\n")
        assert [change.path for change in folders.changes(folder)] == ["lib.py"]
        assert folders.top == repository / "packages"
    finally:
        folders.remove()


def test_no_hook_of_the_repository_runs(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {repository}/hooked\n")
    hook.chmod(0o755)
    folders = AttemptFolders(repository)
    try:
        folders.prepare()
        folders.create()
    finally:
        folders.remove()
    assert not (repository / "hooked").exists()


def work_in(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"one\r\nTWO\n")
    (folder / "new.txt").unlink()
    (folder / "deep").mkdir()
    (folder / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "deep" / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a.txt")


@pytest.mark.parametrize("kind", ["git", "plain"])
def test_changes_are_carried_over(repository: Path, kind: str) -> None:
    if kind == "plain":
        (repository / ".git").rename(repository.parent / "git-away")
    folders = AttemptFolders(repository)
    try:
        folders.prepare()
        folder = folders.create()
        work_in(folder)
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "x.pyc").write_text("cache")
        changes = folders.changes(folder)
    finally:
        folders.remove()
    expected = {"a.txt", "new.txt", "deep/run.sh", "link"}
    assert {change.path for change in changes if "__pycache__" not in change.path} == expected
    apply_changes(changes, repository)
    assert (repository / "a.txt").read_bytes() == b"one\r\nTWO\n"
    assert not (repository / "new.txt").exists()
    assert os.access(repository / "deep" / "run.sh", os.X_OK)
    assert (repository / "link").readlink() == Path("a.txt")
    assert (repository / "sub" / "b.py").read_text() == "b = 3\n"


def test_a_change_of_the_users_meanwhile_stops_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("theirs")
    changes = [
        FileChange(path="b", before=None, after=FileState(data=b"new")),
        FileChange(path="a", before=FileState(data=b"old"), after=FileState(data=b"ours")),
    ]
    with pytest.raises(ChangedMeanwhile, match="a"):
        apply_changes(changes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "theirs"


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "top" / "folder").symlink_to(tmp_path / "outside")
    change = FileChange(path="folder/x", before=None, after=FileState(data=b"x"))
    with pytest.raises(ChangedMeanwhile):
        apply_changes([change], tmp_path / "top")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_failure_halfway_puts_everything_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    changes = [
        FileChange(path="a", before=FileState(data=b"old"), after=FileState(data=b"new")),
        FileChange(path="c", before=None, after=FileState(data=b"x")),
    ]

    (tmp_path / "c").mkdir()  # a folder in the way: no file can be renamed over it
    with pytest.raises(OSError, match="irectory"):
        apply_changes(changes, tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_the_patch_is_one_that_git_applies(repository: Path, tmp_path: Path) -> None:
    folders = AttemptFolders(repository)
    try:
        folders.prepare()
        folder = folders.create()
        work_in(folder)
        (folder / "sub" / "b.py").write_text("b = 4")  # no newline at the end
        patch = as_patch(folders.changes(folder))
    finally:
        folders.remove()
    file = tmp_path / "it.patch"
    file.write_bytes(patch.encode())
    git(repository, "apply", str(file))
    assert (repository / "sub" / "b.py").read_text() == "b = 4"
    assert (repository / "a.txt").read_bytes() == b"one\r\nTWO\n"
    assert read_state(repository / "link") == FileState(data=b"a.txt", link=True)
