"""The text files of a project, read for analysis only: bounded, and never outside its root."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

IGNORED_DIRECTORIES = frozenset(
    {"__pycache__", "node_modules", "venv", "env", "site-packages", "build", "dist", "target"}
)
LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".go": "go",
    ".rs": "rust",
    ".java": "java",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cs": "csharp",
    ".php": "php",
    ".kt": "kotlin",
    ".swift": "swift",
}
TEST_DIRECTORIES = frozenset({"tests", "test", "__tests__", "spec"})
MAX_FILES = 4000
MAX_BYTES = 400_000


def language_of(path: str) -> str:
    """The code fence name of a file's language; "" for one we cannot take apart."""
    return LANGUAGES.get(PurePosixPath(path).suffix, "")


def is_test_file(path: str) -> bool:
    pure = PurePosixPath(path)
    stem = pure.name.split(".")[0]
    return (
        any(part in TEST_DIRECTORIES for part in pure.parts[:-1])
        or stem.startswith("test_")
        or stem.endswith(("_test", "_spec"))
        or ".test." in pure.name
        or ".spec." in pure.name
        or pure.name == "conftest.py"
    )


class ProjectFiles:
    """Paths are relative to the root, with forward slashes. All methods block: call them in a
    thread."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def paths(self) -> tuple[str, ...]:
        """Source files in order of name, at most `MAX_FILES`; hidden directories, installed
        packages and build output are left out."""
        found: list[str] = []
        for folder, directories, names in os.walk(self.root):
            directories[:] = sorted(
                name
                for name in directories
                if not name.startswith(".") and name not in IGNORED_DIRECTORIES
            )
            base = Path(folder).relative_to(self.root)
            found.extend((base / name).as_posix() for name in sorted(names) if language_of(name))
            if len(found) >= MAX_FILES:
                break
        return tuple(found[:MAX_FILES])

    def read(self, path: str) -> str | None:
        """The text, or None where there is no file, it is too large, or it is not UTF-8."""
        data = self.read_bytes(path)
        if data is None or len(data) > MAX_BYTES:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def read_bytes(self, path: str) -> bytes | None:
        resolved = (self.root / path).resolve()
        if not resolved.is_relative_to(self.root):
            return None
        try:
            return resolved.read_bytes() if resolved.is_file() else None
        except OSError:
            return None

    def relative(self, printed: str) -> str | None:
        """A path as a test runner printed it -> the path of a file of this project, or None."""
        text = printed.removeprefix("file://")
        path = Path(text) if Path(text).is_absolute() else self.root / text
        try:
            resolved = path.resolve()
            relative = resolved.relative_to(self.root)
        except (OSError, ValueError):
            return None
        hidden = any(
            part.startswith(".") or part in IGNORED_DIRECTORIES for part in relative.parts[:-1]
        )
        return relative.as_posix() if resolved.is_file() and not hidden else None
