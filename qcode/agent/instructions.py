"""AGENTS.md files: what a user and a project want every agent to know.

Found as the convention has it: the user's own file, then one file for each directory from the git
root down to the working directory, the nearest last. `@path` outside code brings in another file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from qcode.agent.system_prompt import git_root
from qcode.sandbox.sensitive_paths import is_secret

OVERRIDE = "AGENTS.override.md"
NAMES = (OVERRIDE, "AGENTS.md", "QWEN.md", "CLAUDE.md")
MAX_BYTES = 32 * 1024
MAX_IMPORT_DEPTH = 5

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_IMPORT = re.compile(r"(?:(?<=\s)|^)@(?P<path>[\w./~-]*[\w/~-])")
_CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+\1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """`notes` tell the person what was left out and why."""

    text: str = ""
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def load_instructions(
    cwd: Path, *, user_directory: Path | None = None, trusted: bool = True
) -> Instructions:
    """All instructions for work in `cwd`. `user_directory` is where the user's own AGENTS.md lies.
    Nothing of a project that is not `trusted` is read."""
    reader = _Reader()
    if user_directory is not None:
        reader.add_first_of(user_directory, (OVERRIDE, "AGENTS.md"), root=user_directory)
    if trusted:
        cwd = cwd.resolve()
        root = git_root(cwd) or cwd
        steps = cwd.relative_to(root).parts
        for depth in range(len(steps) + 1):
            reader.add_first_of(root.joinpath(*steps[:depth]), NAMES, root=root)
    return Instructions(
        text="\n\n".join(reader.texts), files=tuple(reader.files), notes=tuple(reader.notes)
    )


@dataclass(slots=True)
class _Reader:
    texts: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_bytes: int = MAX_BYTES

    def add_first_of(self, directory: Path, names: tuple[str, ...], *, root: Path) -> None:
        for name in names:
            path = directory / name
            if not path.is_file():
                continue
            text = self._read(path, root, stack=())
            if text is not None and text.strip():
                self.texts.append(f"## From {_shown(path, root)}\n\n{text.strip()}")
                return

    def _read(self, path: Path, root: Path, stack: tuple[Path, ...]) -> str | None:
        """The file's text with its imports; None where it may not or cannot be read."""
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(root.resolve()):
                self.notes.append(f"{path} leads out of {root} and was not read.")
                return None
            if not real.is_file() or real in stack or is_secret(real.relative_to(root.resolve())):
                return None
            with real.open("rb") as file:
                data = file.read(self.left_bytes + 1)
        except OSError as error:
            self.notes.append(f"{path} could not be read ({error.strerror}).")
            return None
        if len(data) > self.left_bytes:
            data = data[: self.left_bytes]
            self.notes.append(
                f"{path} was cut: instructions are limited to {MAX_BYTES // 1024} KiB in all."
            )
        self.left_bytes -= len(data)
        self.files.append(path)
        text = data.decode("utf-8-sig", "replace")
        return self._with_imports(text, path.parent, root, (*stack, real))

    def _with_imports(self, text: str, directory: Path, root: Path, stack: tuple[Path, ...]) -> str:
        lines = []
        fence = ""
        for line in text.splitlines():
            mark = _FENCE.match(line)
            if fence:
                if mark and mark[1].startswith(fence):
                    fence = ""
            elif mark:
                fence = mark[1]
            else:
                line = self._line_with_imports(line, directory, root, stack)
            lines.append(line)
        return "\n".join(lines)

    def _line_with_imports(
        self, line: str, directory: Path, root: Path, stack: tuple[Path, ...]
    ) -> str:
        code = [span.span() for span in _CODE_SPAN.finditer(line)]

        def imported(match: re.Match[str]) -> str:
            if any(start <= match.start() < end for start, end in code):
                return match[0]
            path = directory / match["path"]
            if not path.is_file():
                return match[0]  # a name, a decorator, an address: not an import
            if len(stack) > MAX_IMPORT_DEPTH:
                self.notes.append(f"{path} was not read: imports go {MAX_IMPORT_DEPTH} deep.")
                return match[0]
            text = self._read(path, root, stack)
            return match[0] if text is None else text.strip()

        return _IMPORT.sub(imported, line)


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
