"""Which paths ask before they are touched: secrets before a read, configuration that can run code
or steer the agent before an edit. Names are compared NFC and case-folded on every platform, since
some file systems do the same."""

from __future__ import annotations

import itertools
import re
import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path

_SECRET_NAMES = (
    ".env", ".env.*", "*.pem", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc",
    "_netrc", ".npmrc", ".pypirc", ".git-credentials", "*.kdbx", "*.p12", "*.pfx", "*.keystore",
)  # fmt: skip
_NOT_SECRET_NAMES = frozenset({".env.example", ".env.sample", ".env.template"})
_SECRET_DIRECTORIES = frozenset(
    {".ssh", ".aws", ".gnupg", ".kube", ".azure", "gcloud", "keychains", "keyrings"}
)
_PROTECTED_DIRECTORIES = frozenset({".git", ".qcode", ".vscode", ".idea", ".husky", ".circleci"})
_PROTECTED_NAMES = frozenset(
    {
        "agents.md", "qcode.md", "claude.md", "qwen.md", ".mcp.json", ".envrc", ".gitmodules",
        ".gitattributes", ".gitconfig", ".bashrc", ".bash_profile", ".bash_login", ".profile",
        ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".inputrc", ".npmrc", ".yarnrc",
        ".yarnrc.yml", ".pypirc", "pip.conf", ".netrc", ".gitlab-ci.yml", ".travis.yml",
        "jenkinsfile", "azure-pipelines.yml", ".pre-commit-config.yaml", "sitecustomize.py",
        "usercustomize.py",
    }
)  # fmt: skip
_CI_DIRECTORIES = ((".github", "workflows"), (".github", "actions"), (".cargo", "config.toml"))
_PROCESS_SECRETS = re.compile(r"/proc/[^/]+/(environ|mem|maps|fd/.*|task/.*)$")


def is_secret(path: Path) -> bool:
    """A read of this file asks first."""
    if _PROCESS_SECRETS.fullmatch(str(path)):
        return True
    parts = [_fold(part) for part in path.parts]
    if not parts:
        return False
    name = parts[-1]
    if name not in _NOT_SECRET_NAMES and any(fnmatchcase(name, glob) for glob in _SECRET_NAMES):
        return not name.endswith(".pub")
    if not _SECRET_DIRECTORIES.isdisjoint(parts):
        return True
    return parts[-2:] == [".docker", "config.json"] or _pairs(parts, ".config", "qcode")


def is_protected(path: Path) -> bool:
    """An edit of this file asks first, also where edits are allowed."""
    parts = [_fold(part) for part in path.parts]
    if not parts:
        return False
    return (
        not _PROTECTED_DIRECTORIES.isdisjoint(parts)
        or parts[-1] in _PROTECTED_NAMES
        or any(_pairs(parts, *pair) for pair in _CI_DIRECTORIES)
        or is_secret(path)
    )


def _fold(name: str) -> str:
    """The name as the most forgiving file system would take it: `.GIT`, `.git.` and `GIT~1` are
    all `.git`."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    folded = folded.rstrip(". ") or folded
    return ".git" if re.fullmatch(r"git~\d+", folded) else folded


def _pairs(parts: list[str], first: str, second: str) -> bool:
    return any(pair == (first, second) for pair in itertools.pairwise(parts))
