"""Wheels carry the compiled kernels where there is a compiler, and are made without them else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qcode.engine.kernels import build

REPOSITORY = Path(__file__).parents[1]
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "sample"
version = "1"
requires-python = ">=3.11"
[tool.hatch.build.targets.wheel]
packages = ["qcode"]
artifacts = ["qcode/engine/kernels/*.so"]
[tool.hatch.build.targets.wheel.hooks.custom]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our build hook and build module, and one small source to compile."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    shutil.copy(REPOSITORY / "hatch_build.py", tmp_path)
    kernels = tmp_path / "qcode" / "engine" / "kernels"
    kernels.mkdir(parents=True)
    shutil.copy(REPOSITORY / "qcode/engine/kernels/build.py", kernels)
    (kernels / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    # Importing the package must not be needed to build it.
    (tmp_path / "qcode" / "__init__.py").write_text('raise ImportError("not while building")\n')
    return tmp_path


def make_wheel(
    project: Path, compiler: str | None, backend_call: str = "build_wheel"
) -> tuple[Path, str]:
    """The wheel and what was printed."""
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    if compiler:
        environment["CXX"] = compiler
    done = subprocess.run(
        [sys.executable, "-c", f"from hatchling.build import *; {backend_call}('dist')"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (wheel,) = (project / "dist").iterdir()
    return wheel, done.stdout + done.stderr


def libraries(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {Path(name).name for name in archive.namelist() if name.endswith(".so")}


def test_a_wheel_with_compiled_kernels_is_for_one_platform(project: Path) -> None:
    try:
        build.find_compiler()
    except build.BuildFailed as error:
        pytest.skip(str(error))
    wheel, _ = make_wheel(project, None)
    assert wheel.name.startswith("sample-1-py3-none-")
    assert not wheel.name.endswith("-any.whl")
    assert libraries(wheel) == {build.library_name(variant) for variant in build.variants()}


def test_an_editable_installation_compiles_in_place(project: Path) -> None:
    try:
        build.find_compiler()
    except build.BuildFailed as error:
        pytest.skip(str(error))
    make_wheel(project, None, "build_editable")
    built = {path.name for path in (project / "qcode/engine/kernels").glob("*.so")}
    assert built == {build.library_name(variant) for variant in build.variants()}


def test_without_a_compiler_one_warning_is_printed(project: Path) -> None:
    wheel, printed = make_wheel(project, "/nonexistent/c++")
    assert wheel.name == "sample-1-py3-none-any.whl"
    assert libraries(wheel) == set()
    assert printed.count("kernels were not compiled") == 1
    assert "python -m qcode.engine.kernels.build" in printed


def test_sources_that_do_not_compile_are_reported_and_leave_nothing(
    project: Path, tmp_path: Path
) -> None:
    try:
        build.find_compiler()
    except build.BuildFailed as error:
        pytest.skip(str(error))
    (project / "qcode/engine/kernels/answer.cpp").write_text("this is not C++\n")
    wheel, printed = make_wheel(project, None)
    assert libraries(wheel) == set()
    assert "answer.cpp" in printed
    assert not list(project.rglob("*.so"))
