"""Results that would flood the context: head and tail for the model, the whole in a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from qcode.agent.recent_files import READ_TOOL
from qcode.protocol.values import dataclass

MAX_CONTENT_CHARS = 30_000
MAX_FILE_CHARS = 16 * 1024 * 1024


def max_content_chars(context_window: int | None) -> int:
    """What one result may take: never more than about a quarter of the model's window."""
    if context_window is None:
        return MAX_CONTENT_CHARS
    return max(2_000, min(MAX_CONTENT_CHARS, context_window))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLimit:
    """`directory` is where whole results are kept; None: nowhere."""

    max_chars: int = MAX_CONTENT_CHARS
    directory: Path | None = None

    def cut(self, content: str, *, tool: str) -> str:
        """At most `max_chars` characters of the content and one line of note. Writes a file."""
        if len(content) <= self.max_chars:
            return content
        half = self.max_chars // 2
        left_out = len(content) - 2 * half
        note = f"{left_out} characters left out{self._where(content, tool)}"
        return f"{content[:half]}\n[... {note} ...]\n{content[-half:]}"

    def _where(self, content: str, tool: str) -> str:
        if tool == READ_TOOL:
            return "; read the file in parts, with offset and limit"
        if self.directory is None or str(self.directory) in content[:500]:
            return ""  # the tool itself has said where all of it is
        try:
            return f"; all of it is in {_kept(content[:MAX_FILE_CHARS], tool, self.directory)}"
        except OSError:
            return ""


def _kept(content: str, tool: str, directory: Path) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = "".join(char if char.isalnum() else "_" for char in tool)[:40]
    descriptor, path = tempfile.mkstemp(dir=directory, prefix=f"{name}-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(content)
    return Path(path)
