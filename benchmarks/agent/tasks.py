"""The repair projects: what is broken, how it is asked for, how it is judged."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECTS = Path(__file__).parent / "projects"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`project` holds the files the agent sees; `hidden` is laid over them for judging only."""

    name: str
    prompt: str
    command: str
    language: str
    kind: str
    project: Path
    hidden: Path


def load_tasks(names: list[str] | None = None, root: Path = PROJECTS) -> list[Task]:
    """All tasks in order of name, or the named ones. Raises `KeyError` for an unknown name."""
    folders = {folder.parent.name: folder.parent for folder in sorted(root.glob("*/task.toml"))}
    return [_load(folders[name]) for name in (names or folders)]


def _load(folder: Path) -> Task:
    fields = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
    return Task(
        name=folder.name,
        prompt=fields["prompt"],
        command=fields["command"],
        language=fields["language"],
        kind=fields["kind"],
        project=folder / "project",
        hidden=folder / "hidden",
    )
