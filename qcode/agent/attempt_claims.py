"""Whose the copies in the temporary folder are: those of a process that was killed are taken away
by the next one.

A lock tells it, not a process id: it ends with its process whatever that died of, and holds among
containers that share a folder and not their processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_PREFIX = "qcode-attempts-"
_LOCK = "owner"


class ClaimedFolder:
    """A new temporary folder, which is this process's own until `release`."""

    def __init__(self, top: Path) -> None:
        """`top` is the project that is copied into it."""
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        unclaimed = self.path / f"{_LOCK}.new"
        self._lock = os.open(unclaimed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, os.fsencode(top))
        unclaimed.rename(self.path / _LOCK)

    def release(self) -> None:
        """Takes the folder away."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned(forget: Callable[[Path, Path], None]) -> None:
    """Takes away the folders of this user whose process is gone. `forget` is called before with
    the project and each folder in one of them that still has a `.git`."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            top = Path(os.fsdecode(os.read(lock, 1 << 16)))
            for copy in folder.resolve().glob("attempt-*"):
                if (copy / ".git").is_file() and top.is_dir():
                    forget(top, copy)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process lives, or nothing can be read
        finally:
            os.close(lock)
