from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qcode.agent.repair.discovery import discover_runners
from qcode.agent.repair.failure import Failure, Frame
from qcode.agent.repair.project_files import ProjectFiles
from qcode.agent.repair.quick_fixes import missing_imports, with_import
from qcode.agent.repair.runners import TestRunner, runner_of

UNITTEST = "import unittest\n\n\nclass A(unittest.TestCase):\n    def test_a(self): pass\n"
PYTEST = "def test_a():\n    assert True\n"


def runners(root: Path, **files: str) -> tuple[TestRunner, ...]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return discover_runners(ProjectFiles(root))


def suites(found: tuple[TestRunner, ...]) -> list[str]:
    return [runner.suite for runner in found]


def test_unittest_in_the_root(tmp_path: Path) -> None:
    (found,) = runners(tmp_path, **{"test_a.py": UNITTEST})
    assert found.kind == "unittest"
    assert found.suite.endswith(" -m unittest")
    assert found.only("test_a.A.test_a").endswith(" -m unittest -k A.test_a")


def test_unittest_in_a_directory_that_is_no_package(tmp_path: Path) -> None:
    (found,) = runners(tmp_path, **{"tests/test_a.py": UNITTEST})
    assert found.suite.endswith(" -m unittest discover -s tests")
    (found,) = runners(tmp_path, **{"tests/__init__.py": ""})
    assert found.suite.endswith(" -m unittest")


@pytest.mark.parametrize(
    "files",
    [
        {"test_a.py": PYTEST},
        {"tests/test_a.py": "import pytest\n" + UNITTEST},
        {"test_a.py": UNITTEST, "pyproject.toml": "[tool.pytest.ini_options]\n"},
        {"test_a.py": UNITTEST, "pytest.ini": ""},
    ],
)
def test_pytest_where_it_is_used_or_configured(tmp_path: Path, files: dict[str, str]) -> None:
    found = runners(tmp_path, **files)
    assert found[0].kind == "pytest"
    assert " -m pytest " in found[0].suite
    assert found[0].only("test_a.py::test_a[x y]").endswith(" 'test_a.py::test_a[x y]'")


def test_unittest_is_the_way_out_where_pytest_is_missing(tmp_path: Path) -> None:
    found = runners(tmp_path, **{"test_a.py": UNITTEST, "pytest.ini": ""})
    assert [runner.kind for runner in found][-1] == "unittest"


def test_the_projects_own_environment_comes_first(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    found = runners(tmp_path, **{"test_a.py": PYTEST})
    assert found[0].suite.startswith(".venv/bin/python ")


@pytest.mark.parametrize(
    ("files", "suite"),
    [
        ({"package.json": '{"scripts": {"test": "node --test"}}'}, "node --test"),
        ({"src/a.test.js": ""}, "node --test"),
        ({"Cargo.toml": "", "src/lib.rs": ""}, "cargo test -q"),
        ({"go.mod": "", "a.go": ""}, "go test ./..."),
        ({"Makefile": "build:\n\tcc\ntest: build\n\t./t\n"}, "make test"),
    ],
)
def test_other_languages(tmp_path: Path, files: dict[str, str], suite: str) -> None:
    assert suites(runners(tmp_path, **files)) == [suite]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "x = 1\n"},
        {"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'},
        {"package.json": "not json"},
        {"Makefile": "all:\n\tcc\n"},
    ],
)
def test_nothing_is_guessed(tmp_path: Path, files: dict[str, str]) -> None:
    assert runners(tmp_path, **files) == ()


@pytest.mark.parametrize(
    ("command", "kind", "selects"),
    [
        ("pytest", "pytest", True),
        ("python -m pytest -q --tb=long", "pytest", True),
        ("pytest tests/test_a.py", "pytest", False),
        ("python3 -m unittest", "unittest", True),
        ("python3 -m unittest tests.test_a", "unittest", False),
        ("npm test", "node", False),
        ("make test", "other", False),
        ("./check 'unclosed", "other", False),
    ],
)
def test_commands_that_a_person_names(command: str, kind: str, selects: bool) -> None:
    runner = runner_of(command)
    assert (runner.kind, runner.suite, runner.selects) == (kind, command, selects)
    if not selects:
        assert runner.only("a_test") == command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = os\n", "import os\nx = os\n"),
        ('"""A."""\n\nx = os\n', '"""A."""\n\nimport os\n\nx = os\n'),
        ("import sys\n\nx = os\n", "import os\nimport sys\n\nx = os\n"),
        ("import json\nfrom a import b\n", "import json\nimport os\nfrom a import b\n"),
        (
            "from __future__ import annotations\n",
            "from __future__ import annotations\n\nimport os\n",
        ),
        ("import sys\r\n", "import os\r\nimport sys\r\n"),
    ],
)
def test_an_import_is_put_where_it_belongs(text: str, expected: str) -> None:
    assert with_import(text, "os") == expected


@pytest.mark.parametrize(
    ("name", "fixed"), [("statistics", True), ("helpers", True), ("counter", False)]
)
def test_undefined_names_that_are_modules(tmp_path: Path, name: str, fixed: bool) -> None:
    (tmp_path / "a.py").write_text(f"def mean():\n    return {name}.mean()\n")
    (tmp_path / "helpers.py").write_text("")
    failure = Failure(
        test="t",
        function="t",
        text=f"NameError: name '{name}' is not defined",
        frames=(Frame(path=str(tmp_path / "a.py"), line=2, function="mean"),),
    )
    proposals = missing_imports(failure, ProjectFiles(tmp_path))
    assert [item.after.startswith(f"import {name}\n") for item in proposals] == [True] * fixed


@pytest.mark.parametrize(
    ("kind", "test", "expected"),
    [
        ("pytest", "test_b", "run -k test_b"),
        ("pytest", "test_a.py", "run tests/test_a.py"),
        ("pytest", "tests/test_a.py::T::test_b", "run tests/test_a.py::T::test_b"),
        ("pytest", "tests/gone.py::test_b", "run -k tests/gone.py"),
        ("unittest", "test_b", "run -k test_b"),
        ("unittest", "tests/test_a.py", "run -k test_a"),
        ("unittest", "tests/test_a.py::T::test_b", "run -k T.test_b"),
        ("node", "test_b", "run"),
    ],
)
def test_tests_as_a_person_names_them(kind: str, test: str, expected: str) -> None:
    kinds: dict[str, TestRunner] = {
        "pytest": TestRunner(kind="pytest", suite="run", selects=True),
        "unittest": TestRunner(kind="unittest", suite="run", selects=True),
        "node": TestRunner(kind="node", suite="run"),
    }
    assert kinds[kind].named(test, ["a.py", "tests/test_a.py"]) == expected
