from __future__ import annotations

from pathlib import Path

import pytest

from qcode.agent.permission_rules import parse_rule
from qcode.protocol.errors import SettingsError
from qcode.protocol.permissions import SimpleCommand

ROOT = Path("/work/project")


@pytest.mark.parametrize(
    "source",
    [
        "",
        "Bash(",
        "Bash()",
        "Bash)x(",
        "Bash(:*)",
        "Bash('open)",
        "Bash(git diff *)",
        "Bsh(rm:*)",
        "Edit(../x)",
        "Edit(!x)",
        "Edit(#x)",
        "Edit([ab)",
        "WebFetch(example.org)",
        "WebFetch(domain:)",
        "todo_write(x)",
        "Bash(a) trailing",
    ],
)
def test_a_malformed_rule_is_named(source: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_rule(source)
    assert repr(source) in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("rule", "argv", "matches"),
    [
        ("Bash(git diff:*)", ("git", "diff"), True),
        ("Bash(git diff:*)", ("git", "diff", "--stat"), True),
        ("Bash(git diff:*)", ("git", "difftool"), False),
        ("Bash(git diff:*)", ("git",), False),
        ("Bash(npm test)", ("npm", "test"), True),
        ("Bash(npm test)", ("npm", "test", "x"), False),
        ("Bash(echo 'a b')", ("echo", "a b"), True),
        ("Bash(echo 'a b')", ("echo", "a", "b"), False),
        ("run_shell_command(ls)", ("ls",), True),
        ("Bash", ("anything",), True),
    ],
)
def test_commands_match_by_whole_words(rule: str, argv: tuple[str, ...], matches: bool) -> None:
    assert parse_rule(rule).matches_command(SimpleCommand(argv=argv)) is matches


@pytest.mark.parametrize(
    ("rule", "path", "matches"),
    [
        ("Edit(src/**)", "/work/project/src/a/b.py", True),
        ("Edit(src/**)", "/work/project/lib/src/b.py", False),
        ("Edit(/setup.py)", "/work/project/setup.py", True),
        ("Edit(/setup.py)", "/work/project/sub/setup.py", False),
        ("Edit(*.md)", "/work/project/sub/a.md", True),
        ("Edit(*.md)", "/work/project-evil/a.md", False),
        ("Read(//etc/**)", "/etc/hosts", True),
        ("Read(//etc/**)", "/work/project/etc/hosts", False),
        ("write_file(docs)", "/work/project/docs/a", True),
    ],
)
def test_paths_match_by_gitignore_globs(rule: str, path: str, matches: bool) -> None:
    assert parse_rule(rule).matches_path(Path(path), ROOT) is matches


def test_a_tilde_is_the_home_directory(isolated_home: Path) -> None:
    rule = parse_rule("Read(~/notes/**)")
    assert rule.matches_path(isolated_home / "notes" / "a", ROOT)
    assert not rule.matches_path(ROOT / "notes" / "a", ROOT)
