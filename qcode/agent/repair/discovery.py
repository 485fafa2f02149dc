"""Which command runs a project's tests, found from its files."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from qcode.agent.repair.project_files import ProjectFiles, is_test_file, language_of
from qcode.agent.repair.runners import PYTEST_OPTIONS, TestRunner

_PYTEST_CONFIGS = {
    "pytest.ini": "",
    "pyproject.toml": "[tool.pytest",
    "setup.cfg": "[tool:pytest]",
    "tox.ini": "[pytest]",
}
_USES_UNITTEST = re.compile(r"^\s*(?:import unittest|from unittest import)", re.MULTILINE)
_PYTEST_FUNCTION = re.compile(r"^(?:async )?def test_\w*\(", re.MULTILINE)
_NPM_PLACEHOLDER = "no test specified"


def discover_runners(project: ProjectFiles) -> tuple[TestRunner, ...]:
    """Runners to try in order; the next one only if the one before is not installed. Blocks."""
    tests = [path for path in project.paths() if is_test_file(path)]
    python_tests = [path for path in tests if language_of(path) == "python"]
    if python_tests:
        return _python_runners(project, python_tests)
    if (script := _npm_test(project)) is not None:
        return (TestRunner(kind="node", suite="npm test --silent" if script else "node --test"),)
    if any(language_of(path) == "javascript" for path in tests):
        return (TestRunner(kind="node", suite="node --test"),)
    if project.read("Cargo.toml") is not None:
        return (TestRunner(kind="other", suite="cargo test -q"),)
    if project.read("go.mod") is not None:
        return (TestRunner(kind="other", suite="go test ./..."),)
    for name in ("GNUmakefile", "makefile", "Makefile"):
        if re.search(r"^test\s*:", project.read(name) or "", re.MULTILINE):
            return (TestRunner(kind="other", suite="make test"),)
    return ()


def _npm_test(project: ProjectFiles) -> str | None:
    """The project's `npm test` script; "" where npm is missing or it is plain `node --test`."""
    try:
        package = json.loads(project.read("package.json") or "{}")
        script = package["scripts"]["test"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(script, str) or _NPM_PLACEHOLDER in script:
        return None
    return script if script.strip() != "node --test" and shutil.which("npm") else ""


def _python_runners(project: ProjectFiles, tests: list[str]) -> tuple[TestRunner, ...]:
    texts = [project.read(path) or "" for path in tests]
    configured = any(
        marker in text
        for name, marker in _PYTEST_CONFIGS.items()
        if (text := project.read(name)) is not None
    )
    cases = any(_USES_UNITTEST.search(text) for text in texts)
    functions = any("pytest" in text or _PYTEST_FUNCTION.search(text) for text in texts)
    runners = []
    if configured or functions or not cases:
        runners = [_pytest(python) for python in _pythons(project.root)]
    if cases:
        runners.append(_unittest(_pythons(project.root)[0], project, tests))
    return tuple(runners)


def _pytest(python: str) -> TestRunner:
    suite = f"{shlex.quote(python)} -m pytest {PYTEST_OPTIONS}"
    return TestRunner(kind="pytest", suite=suite, selects=True)


def _unittest(python: str, project: ProjectFiles, tests: list[str]) -> TestRunner:
    """Discovery starts where the tests are: a directory that is no package is not entered."""
    suite = f"{shlex.quote(python)} -m unittest"
    folders = {path.rpartition("/")[0] for path in tests}
    top = {folder.split("/")[0] for folder in folders}
    if "" not in folders and len(top) == 1:
        (folder,) = top
        if project.read(f"{folder}/__init__.py") is None:
            suite += f" discover -s {shlex.quote(folder)}"
    return TestRunner(kind="unittest", suite=suite, selects=True)


def _pythons(root: Path) -> tuple[str, ...]:
    """Interpreters for the project's tests: its own environment, the active one, the one on PATH;
    and the one that runs this program, where it has pytest."""
    found: list[str] = []
    for environment in (root / ".venv", root / "venv", Path(os.environ.get("VIRTUAL_ENV") or "/-")):
        python = environment / "bin" / "python"
        if python.exists():
            found.append(_shown(python, root))
    if not found:
        found += [name for name in ("python3", "python") if shutil.which(name)][:1]
    if importlib.util.find_spec("pytest") is not None and sys.executable not in found:
        found.append(sys.executable)
    return tuple(found) or (sys.executable,)


def _shown(python: Path, root: Path) -> str:
    """As a person would type it: from the project, by name if that finds it, else the path."""
    if python.is_relative_to(root):
        return str(python.relative_to(root))
    return python.name if shutil.which(python.name) == str(python) else str(python)
