from __future__ import annotations

import pytest

from qcode.agent.repair.goal import find_goal


@pytest.mark.parametrize(
    "prompt",
    [
        "fix the failing test",
        "Fix the failing tests.",
        "The tests fail, please repair the code.",
        "make the test suite pass",
        "tests/test_x.py::test_y fails, fix it",
        "please fix the bug in cart.py",
        "Get the build green again",
        "repair whatever makes `npm test` fail",
    ],
)
def test_repair_prompts(prompt: str) -> None:
    assert find_goal(prompt) is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "explain the failing test",
        "Write a test for cart.py",
        "why does the build fail?",
        "add a fixture to the tests",
        "fix the typo in the README",
        "what does this project do?",
        "",
    ],
)
def test_other_prompts(prompt: str) -> None:
    assert find_goal(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "command"),
    [
        ("make `python -m pytest tests/unit` pass", "python -m pytest tests/unit"),
        ("make pytest pass", "pytest"),
        ("make npm test pass", "npm test"),
        ("fix the bug so that `./check.sh --all` succeeds, the test fails", "./check.sh --all"),
        ("fix the failing test in `slugify`", None),
        ("fix the failing test", None),
    ],
)
def test_named_command(prompt: str, command: str | None) -> None:
    goal = find_goal(prompt)
    assert goal is not None
    assert goal.command == command


@pytest.mark.parametrize(
    ("prompt", "test"),
    [
        ("tests/test_x.py::TestA::test_y fails, fix it", "tests/test_x.py::TestA::test_y"),
        ("fix test_total_with_discount", "test_total_with_discount"),
        ("fix the failing tests in tests/test_cart.py", "tests/test_cart.py"),
        ("fix cart.py, the test fails", None),
    ],
)
def test_named_test(prompt: str, test: str | None) -> None:
    goal = find_goal(prompt)
    assert goal is not None
    assert goal.test == test


def test_verify_command_is_the_goal_unless_the_prompt_names_one() -> None:
    verified = find_goal("fix it", verify="make check")
    assert verified is not None
    assert verified.command == "make check"
    named = find_goal("make `pytest -q` pass", verify="make check")
    assert named is not None
    assert named.command == "pytest -q"


def test_tests_may_be_edited_only_when_asked() -> None:
    asked = find_goal("the tests are wrong, fix the failing tests")
    plain = find_goal("fix the failing test")
    assert asked is not None
    assert asked.edits_tests
    assert plain is not None
    assert not plain.edits_tests
