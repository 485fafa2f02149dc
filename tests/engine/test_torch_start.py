"""Each in a process of its own: torch is imported once."""

from __future__ import annotations

import subprocess
import sys

BEGINNING = """
import sys, threading
from pathlib import Path
from qcode.engine import torch_start

def libraries():
    return "libtorch_cpu" in Path("/proc/self/maps").read_text()

def wait():
    for thread in threading.enumerate():
        if thread.name == "torch libraries":
            thread.join()
"""


def in_new_process(code: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGINNING + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


def test_the_libraries_are_loaded_before_torch_is_imported() -> None:
    in_new_process("""
torch_start.hasten_torch()
wait()
assert sys.platform != "linux" or libraries()
assert "torch" not in sys.modules
""")


def test_torch_is_imported_as_usual_meanwhile() -> None:
    in_new_process("""
torch_start.hasten_torch()
import torch
assert (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item() == 12
assert torch.rand(2, generator=torch.Generator().manual_seed(1)).shape == (2,)
""")


def test_libraries_that_cannot_be_loaded_are_left_to_torch() -> None:
    in_new_process("""
torch_start.LIBRARIES = ("libnone.so", "libnone.so")
torch_start.hasten_torch()
wait()
import torch
assert torch.ones(2).sum().item() == 2
""")
