"""The system prompt from its parts: what never changes, then the project's instructions, then the
facts of this machine and day, so that as much as possible of it stays the same between sessions.

It is built once for a session and then kept byte for byte, also where the session is resumed: a
changed prefix costs every cached token behind it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path

from qcode.agent.profile import Profile
from qcode.protocol.values import dataclass

_LEAN_INSTRUCTIONS_CHARS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the model cannot know by itself. `git_branch` is None outside a git repository."""

    cwd: Path
    platform: str
    today: date
    git_branch: str | None = None


def build_system_prompt(
    *,
    profile: Profile,
    facts: Facts,
    instructions: str = "",
    own: str | None = None,
    added: str = "",
) -> str:
    """`instructions` are those of AGENTS.md files, from `load_instructions`. `own` takes the place
    of qcode's prompt; `added` stands after everything."""
    if profile == "lean" and len(instructions) > _LEAN_INSTRUCTIONS_CHARS:
        instructions = instructions[:_LEAN_INSTRUCTIONS_CHARS] + "\n[cut]"
    parts = [load_prompt(profile) if own is None else own.strip()]
    if instructions.strip():
        parts.append(
            "# The project's instructions\n"
            "They come from files of the user and the project, the most particular last; what the "
            f"user says in the conversation comes before them.\n\n{instructions.strip()}"
        )
    parts.append(_described(facts))
    if added.strip():
        parts.append(added.strip())
    return "\n\n".join(parts) + "\n"


def prompt_basis(build: Callable[[Facts], str], facts: Facts) -> str:
    """What tells one system prompt from another, apart from what changes by itself from one day
    and one branch to the next: the digest of the prompt without it."""
    lasting = replace(facts, today=date.min, git_branch=None)
    return hashlib.sha256(build(lasting).encode("utf-8", "replace")).hexdigest()[:32]


def load_prompt(name: str) -> str:
    """The text of `prompts/<name>.md`."""
    return (files("qcode.agent") / "prompts" / f"{name}.md").read_text("utf-8").strip()


def gather_facts(cwd: Path, today: date) -> Facts:
    """Reads files only: no git is run, since a repository can make git run its programs."""
    return Facts(
        cwd=cwd,
        platform=f"{platform.system()} {platform.machine()}",
        today=today,
        git_branch=_git_branch(cwd),
    )


def git_root(directory: Path) -> Path | None:
    """The nearest directory from `directory` upwards that holds `.git`."""
    for candidate in (directory, *directory.parents):
        if (candidate / ".git").exists():
            return candidate
    return None


def _described(facts: Facts) -> str:
    branch = f"git, on {facts.git_branch}" if facts.git_branch else "not a git repository"
    return (
        "# Here and now\n"
        f"Working directory: {facts.cwd} ({branch})\n"
        f"System: {facts.platform}\n"
        f"Date: {facts.today.isoformat()}"
    )


def _git_branch(cwd: Path) -> str | None:
    root = git_root(cwd)
    if root is None:
        return None
    try:
        directory = root / ".git"
        if directory.is_file():  # a worktree or submodule: `gitdir: <path>`
            directory = root / directory.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (directory / "HEAD").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "an unknown branch"
    branch = head.removeprefix("ref: refs/heads/")
    return branch if branch != head else "a detached commit"
