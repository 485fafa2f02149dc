"""The rules of docs/contributing/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qcode"
# The demo's sample project is data: the faulty program that qcode mends.
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "demo_project" not in path.parts]
MAX_LINES = 450
# Files that grow without end in programs of this kind.
CAPPED = ("agent/turn.py", "agent/agent.py", "frontends/repl/app.py", "cli/app.py")
CAP = 300
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "core", "misc"}
HEAVY = {
    "torch", "httpx", "pydantic", "numpy", "safetensors", "llguidance", "tiktoken", "jsonschema",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    """Top-level modules, and all of qcode's, that a fresh interpreter has loaded."""
    loaded = "(name for name, module in sys.modules.items() if module is not None)"
    script = f"import sys\n{statement}\nprint('\\n'.join({loaded}), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    names = set(done.stderr.split())
    packages = {name.partition(".")[0] for name in names} & names  # not a stand-in for a part
    return packages | {name for name in names if name.startswith("qcode")}


def command(*arguments: str) -> str:
    """Statements that run the command line in this interpreter, to its exit."""
    return (
        f"sys.argv = {['qcode', *arguments]!r}\n"
        "from qcode.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code"
    )


def test_the_version_loads_the_standard_library_and_qcode_alone() -> None:
    loaded = modules_after(command("--version"))
    assert {name for name in loaded if name.startswith("qcode")} == {"qcode", "qcode.__main__"}
    foreign = loaded - modules_after("pass") - set(sys.stdlib_module_names)
    assert {name for name in foreign if not name.startswith(("qcode", "_"))} == set()


def test_help_loads_nothing_heavy_and_no_command() -> None:
    loaded = modules_after(command("--help"))
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("qcode.cli.")} == {
        "qcode.cli.app",
        "qcode.cli.exit_codes",
        "qcode.cli.flags",
    }


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("qcode.assembly", set()),
        ("qcode.cli.app", set()),
        ("qcode.cli.run", set()),
        ("qcode.agent.agent", {"pydantic"}),
        ("qcode.frontends.headless", set()),
        ("qcode.frontends.repl.app", set()),
        ("qcode.backends.openai_compatible", set()),
        ("qcode.backends.scripted", set()),
    ],
)
def test_a_module_loads_no_more_than_it_must(module: str, allowed: set[str]) -> None:
    assert modules_after(f"import {module}") & HEAVY <= allowed


def test_the_stand_in_for_the_search_for_plugins_has_all_that_the_search_has() -> None:
    loaded = modules_after(
        "from qcode.__main__ import _leave_out_plugins as leave_out; leave_out()\n"
        "import pydantic.main\n"
        "assert 'importlib.metadata' not in sys.modules\n"
        "from pydantic.plugin._loader import PYDANTIC_ENTRY_POINT_GROUP as group\n"
        "assert group == 'pydantic'"
    )
    assert "pydantic" in loaded


def test_leaving_out_a_part_of_httpx_leaves_nothing_behind() -> None:
    loaded = modules_after("import qcode.backends.proxied_transport, httpx; httpx.Client().close()")
    assert "httpx" in loaded
    assert not {"httpx._main", "rich", "click"} & loaded


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_on_the_engine_names_every_module_of_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    [named] = [set(c["source_modules"]) for c in contracts if c["name"].startswith("the engine")]
    modules = {
        f"qcode.engine.{path.relative_to(PACKAGE / 'engine').parts[0].removesuffix('.py')}"
        for path in MODULES
        if path.is_relative_to(PACKAGE / "engine")
    }
    assert named == modules - {"qcode.engine.chat", "qcode.engine.__init__"}


@pytest.mark.parametrize("name", CAPPED)
def test_the_files_that_would_grow_stay_small(name: str) -> None:
    assert len((PACKAGE / name).read_text().splitlines()) <= CAP


def test_every_module_can_be_read_in_one_go() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_names_say_what_a_module_is() -> None:
    names = {path.relative_to(ROOT): set(path.relative_to(PACKAGE).parts) for path in MODULES}
    stems = {path: {part.removesuffix(".py") for part in parts} for path, parts in names.items()}
    assert {path for path, parts in stems.items() if parts & FORBIDDEN_NAMES} == set()


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path.relative_to(ROOT)
        for path in MODULES
        if path.read_text() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_no_relative_imports_and_no_star_imports() -> None:
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (
                node.level or any(alias.name == "*" for alias in node.names)
            ):
                found.append((path.relative_to(ROOT), node.lineno))
    assert found == []


def test_the_reference_pages_are_what_the_program_says_of_itself() -> None:
    done = subprocess.run(
        [sys.executable, "docs/write_reference.py", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
