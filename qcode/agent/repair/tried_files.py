"""Files that a change is tried on, with a way back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """A file before a change; `changed` is what the change made of it, None while that runs."""

    data: bytes
    mtime_ns: int
    changed: bytes | None = None

    @classmethod
    def of(cls, path: Path) -> _Original:
        return cls(data=path.read_bytes(), mtime_ns=path.stat().st_mtime_ns)


class TriedFiles:
    """What was changed since the last `keep` can be put back at any moment, without awaiting."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._originals: dict[Path, _Original] = {}
        self._changed_at = 0

    async def begin(self, path: Path) -> None:
        """Before the file is changed. Raises `OSError`."""
        await self._new_second()
        self._originals.setdefault(path, _Original.of(path))

    def end(self, path: Path) -> None:
        """The change is made."""
        self._changed_at = int(time.time())
        self._originals[path] = replace(self._originals[path], changed=path.read_bytes())

    def restore(self) -> bool:
        """Puts every changed file back, byte for byte and with its time of change, so that caches
        keyed on it (Python's bytecode) stay right. A file that somebody else wrote to meanwhile
        is theirs: it stays, and a warning says so. False: there was none."""
        if not self._originals:
            return False
        for path, original in self._originals.items():
            current = path.read_bytes() if path.exists() else original.changed
            if original.changed is not None and current not in (original.changed, original.data):
                text = f"{path.name} was changed from outside; it may still hold a tried change."
                self._warn(text)
            elif current != original.data:
                path.write_bytes(original.data)
                os.utime(path, ns=(original.mtime_ns, original.mtime_ns))
        self._originals.clear()
        return True

    def keep(self) -> bool:
        """What was changed so far stays. False: nothing was."""
        changed = bool(self._originals)
        self._originals.clear()
        return changed

    async def _new_second(self) -> None:
        """Bytecode caches compare times in whole seconds and sizes: two versions of a file of the
        same size must not be written within one."""
        now = time.time()
        if int(now) == self._changed_at:
            await asyncio.sleep(self._changed_at + 1 - now)
