"""What this session has read, so that nothing is overwritten unseen."""

from __future__ import annotations

from pathlib import Path

from qcode.protocol.errors import FileChanged, ToolError
from qcode.sandbox.workspace import FileStamp


class FileRecords:
    """One per session, shared by the file tools. Paths are resolved ones."""

    def __init__(self) -> None:
        self._stamps: dict[Path, FileStamp] = {}

    def remember(self, path: Path, stamp: FileStamp) -> None:
        """The model has seen this content, or wrote it."""
        self._stamps[path] = stamp

    def require(self, path: Path, current: FileStamp, name: str) -> None:
        """Raises `ToolError` if the file was not read, `FileChanged` if it is another by now."""
        seen = self._stamps.get(path)
        if seen is None:
            raise ToolError(f"{name} has not been read yet; read it with read_file first")
        if seen.sha256 != current.sha256:
            raise FileChanged(f"{name} changed on disk since it was read; read it again")
