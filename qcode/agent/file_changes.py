"""Changes of whole files: told as a patch, and carried over to another folder all or none."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qcode.protocol.errors import QcodeError
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What stands at a path: a file's bytes, or where a link leads."""

    data: bytes
    executable: bool = False
    link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """None means that there is no file."""

    path: str
    before: FileState | None
    after: FileState | None


class ChangedMeanwhile(QcodeError):
    """The folder is not as the changes found it."""


def read_state(path: Path) -> FileState | None:
    if path.is_symlink():
        return FileState(data=os.fsencode(path.readlink()), link=True)
    if not path.is_file():
        return None
    return FileState(data=path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))


def apply_changes(changes: Sequence[FileChange], top: Path) -> None:
    """All or none. Raises `ChangedMeanwhile` where a path is not as it was before, or leads out of
    `top`; nothing is written then."""
    differing = [
        change.path
        for change in changes
        if read_state(top / change.path) != change.before or not _is_inside(top, change.path)
    ]
    if differing:
        raise ChangedMeanwhile(f"Changed meanwhile: {', '.join(differing[:5])}.")
    written = {change.path: _beside(top / change.path, change.after) for change in changes}
    done: list[FileChange] = []
    try:
        for change in changes:
            _put(top / change.path, written[change.path])
            done.append(change)
    except BaseException:
        for change in reversed(done):
            _put(top / change.path, _beside(top / change.path, change.before))
        raise
    finally:
        for temporary in written.values():
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _is_inside(top: Path, path: str) -> bool:
    """No folder on the way is a link that leads elsewhere."""
    return (top / path).parent.resolve().is_relative_to(top.resolve())


def _beside(path: Path, state: FileState | None) -> Path | None:
    """The state in a temporary file of the same folder, ready to be renamed."""
    if state is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".qcode-tmp-")
    temporary = Path(name)
    with os.fdopen(descriptor, "wb") as file:
        if not state.link:
            file.write(state.data)
            file.flush()
            os.fsync(file.fileno())
    if state.link:
        temporary.unlink()
        temporary.symlink_to(os.fsdecode(state.data))
        return temporary
    mode = path.stat().st_mode & 0o777 if path.is_file() else 0o666 & ~_umask()
    mode = mode | 0o111 if state.executable else mode & ~0o111
    temporary.chmod(mode)
    return temporary


def _umask() -> int:
    """Reading it means setting it; for an instant, and to a careful one."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _put(path: Path, temporary: Path | None) -> None:
    if temporary is None:
        path.unlink(missing_ok=True)
    else:
        temporary.replace(path)


def as_patch(changes: Sequence[FileChange]) -> str:
    """A unified diff that `git apply` and `patch -p1` take; files that are no text are named."""
    return "".join(_diff(change) for change in changes)


def _diff(change: FileChange) -> str:
    before, after = _text(change.before), _text(change.after)
    head = f"diff --git a/{change.path} b/{change.path}\n"
    if before is None or after is None:
        return f"{head}Binary files a/{change.path} and b/{change.path} differ\n"
    if change.before is None:
        head += f"new file mode {_mode(change.after)}\n"
    elif change.after is None:
        head += f"deleted file mode {_mode(change.before)}\n"
    elif _mode(change.before) != _mode(change.after):
        head += f"old mode {_mode(change.before)}\nnew mode {_mode(change.after)}\n"
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{change.path}" if change.before else "/dev/null",
        f"b/{change.path}" if change.after else "/dev/null",
    )
    return head + "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _text(state: FileState | None) -> str | None:
    if state is None:
        return ""
    if b"\0" in state.data[:8192]:
        return None
    try:
        return state.data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _mode(state: FileState | None) -> str:
    if state is not None and state.link:
        return "120000"
    return "100755" if state is not None and state.executable else "100644"
