"""The files a prompt names, read before the model is asked.

A small model that is asked about `cart.py` tends to answer that it does not know the file, rather
than to read it. So the first call is made for it, as it would have made it: with the same tool,
permissions, events and records.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from qcode.agent.recent_files import reading
from qcode.agent.turn import ToolLoop, TurnContext, TurnOutcome
from qcode.sandbox.sensitive_paths import is_secret

MAX_FILES = 3
MAX_BYTES = 64 * 1024
"""Of a file that is read unasked: a small model on a CPU reads some thousand tokens a minute."""

_WORD = re.compile(r"[\w./~@+-]*\w")


class ReadNamedFiles:
    """The tool loop, opened with the files that the prompt names."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        names = await asyncio.to_thread(named_files, prompt, self._root)
        if names:
            message = reading(names)
            turn.add(message)
            await turn.run_calls(message)
        return await ToolLoop().run(prompt, turn)


def named_files(prompt: str, root: Path) -> tuple[str, ...]:
    """The names in a prompt that are files below `root`, in their order; `@name` is meant too.
    Secrets, large files and what lies elsewhere are left for the model to ask for."""
    found: dict[Path, str] = {}
    for word in _WORD.findall(prompt):
        name = word.removeprefix("@")
        path = _file_below(root, name) if "." in name or "/" in name else None
        if path is not None:
            found.setdefault(path, name)
    return tuple(found.values())[:MAX_FILES]


def _file_below(root: Path, name: str) -> Path | None:
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root.resolve()) or is_secret(path) or not path.is_file():
            return None
        return path if path.stat().st_size <= MAX_BYTES else None
    except OSError:  # a name no file can have
        return None
