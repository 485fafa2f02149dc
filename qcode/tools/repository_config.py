"""Whether a repository's own configuration makes git run programs.

Even `git status` runs `core.fsmonitor` and `git diff` runs `diff.external`, text converters and
filters. This reads the configuration as text and starts nothing. What it cannot read counts as
dangerous.
"""

from __future__ import annotations

import re
from pathlib import Path

_SECTION = re.compile(r'\s*\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\](.*)')
_KEY = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?")
_CORE_KEYS = frozenset(
    {"hookspath", "pager", "sshcommand", "askpass", "editor", "alternaterefscommand", "gitproxy",
     "worktree", "attributesfile"}
)  # fmt: skip
_DANGEROUS_SECTIONS = frozenset(
    {"include", "includeif", "filter", "pager", "gpg", "credential", "alias", "extensions"}
)
_REMOTE_KEYS = frozenset({"proxy", "uploadpack", "receivepack", "vcs"})
_HARMLESS_EXTENSIONS = frozenset({"objectformat", "refstorage", "partialclone"})
_MAX_CONFIG_BYTES = 256 * 1024


def repository_runs_programs(directory: Path) -> bool:
    """Of the repository that git would find from `directory`; False where there is none."""
    for place in (directory, *directory.parents):
        git = place / ".git"
        if git.is_dir() and not git.is_symlink():
            return _hooks_run(git) or _config_runs(git / "config")
        if git.exists() or git.is_symlink():
            return True  # a worktree or submodule: its configuration lies elsewhere
        if (place / "HEAD").exists() and (place / "objects").is_dir():
            return True  # a bare repository, perhaps hidden among the files
    return False


def _hooks_run(git: Path) -> bool:
    hooks = git / "hooks"
    if (git / "config.worktree").exists():
        return True
    if not hooks.is_dir():
        return False
    names = {"post-index-change"}
    return any(
        (hook.name in names or hook.name.startswith("fsmonitor")) and hook.suffix != ".sample"
        for hook in hooks.iterdir()
    )


def _config_runs(config: Path) -> bool:
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            return True
        text = config.read_text("utf-8")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    section = ""
    for line in text.splitlines():
        header = _SECTION.fullmatch(line)
        if header is not None:
            section, rest = header.group(1).lower().partition(".")[0], header.group(3)
        else:
            rest = line
        if not rest.strip() or rest.lstrip().startswith(("#", ";")):
            if section in _DANGEROUS_SECTIONS - {"extensions"} and header is not None:
                return True
            continue
        key = _KEY.fullmatch(rest)
        if key is None or rest.rstrip().endswith("\\"):
            return True
        if _is_dangerous(section, key.group(1).lower(), (key.group(2) or "").strip()):
            return True
    return False


def _is_dangerous(section: str, key: str, value: str) -> bool:
    match section:
        case "core" if key == "fsmonitor":
            return value.lower() not in {"true", "false", "yes", "no", "on", "off", "1", "0"}
        case "core":
            return key in _CORE_KEYS
        case "diff" | "difftool" | "merge":
            return key in {"external", "command", "textconv", "cmd", "driver"}
        case "remote" | "url":
            return key in _REMOTE_KEYS or value.startswith("ext::")
        case "extensions":
            return key not in _HARMLESS_EXTENSIONS
        case _:
            return section in _DANGEROUS_SECTIONS
