"""What is installed: everything the package needs at run time, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    script = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={"CXX": "/nonexistent/c++", "PATH": "/usr/bin:/bin"},
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("qcode/")}
    listed = subprocess.run(
        ["git", "ls-files", "qcode"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(listed.stdout.splitlines()) <= packed
    assert not [name for name in packed if "__pycache__" in name]
