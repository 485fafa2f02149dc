"""The system prompt: small, stable, in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

from qcode.agent.system_prompt import (
    Facts,
    build_system_prompt,
    gather_facts,
    load_prompt,
)

FACTS = Facts(
    cwd=Path("/work/project"), platform="Linux x86_64", today=date(2026, 3, 1), git_branch="main"
)


def tokens(text: str) -> int:
    """Four characters a token: English prose is nearer to four and a half."""
    return len(text) // 4


def test_the_budgets_hold() -> None:
    assert tokens(build_system_prompt(profile="full", facts=FACTS)) < 1_000
    assert tokens(build_system_prompt(profile="lean", facts=FACTS)) <= 250


def test_stable_parts_come_before_volatile_ones() -> None:
    prompt = build_system_prompt(profile="full", facts=FACTS, instructions="Use tabs.")
    assert prompt.startswith(load_prompt("full"))
    assert prompt.index("Use tabs.") < prompt.index("/work/project") < prompt.index("2026-03-01")
    tomorrow = build_system_prompt(
        profile="full", facts=replace(FACTS, today=date(2026, 3, 2)), instructions="Use tabs."
    )
    assert prompt[: prompt.index("2026")] == tomorrow[: tomorrow.index("2026")]


def test_the_same_facts_give_the_same_bytes() -> None:
    assert build_system_prompt(profile="full", facts=FACTS) == build_system_prompt(
        profile="full", facts=replace(FACTS)
    )


def test_a_lean_prompt_takes_only_the_beginning_of_long_instructions() -> None:
    prompt = build_system_prompt(profile="lean", facts=FACTS, instructions="x" * 30_000)
    assert tokens(prompt) < 900
    assert "[cut]" in prompt


def test_no_instructions_leave_no_heading() -> None:
    assert "instructions" not in build_system_prompt(
        profile="lean", facts=FACTS, instructions=" \n"
    )


def repository(path: Path, head: str) -> Path:
    (path / ".git").mkdir(parents=True)
    (path / ".git" / "HEAD").write_text(head)
    return path


def branch(cwd: Path) -> str | None:
    return gather_facts(cwd, date(2026, 1, 1)).git_branch


def test_the_branch_is_read_from_files(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", "ref: refs/heads/feature/x\n")
    (root / "deep" / "er").mkdir(parents=True)
    assert branch(root / "deep" / "er") == "feature/x"
    assert branch(repository(tmp_path / "d", "3f" * 20)) == "a detached commit"
    assert branch(tmp_path) is None


def test_a_worktree_points_to_its_repository(tmp_path: Path) -> None:
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / "HEAD").write_text("ref: refs/heads/side\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text("gitdir: ../git\n")
    assert branch(tree) == "side"
    (tree / ".git").write_text("gitdir: /nowhere\n")
    assert branch(tree) == "an unknown branch"
