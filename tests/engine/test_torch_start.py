"""Each in a process of its own: torch is imported once."""

from __future__ import annotations

import subprocess
import sys

BEGINNING = """
import sys
from types import ModuleType
from qcode.engine import torch_start

def is_put_off(name):
    return type(sys.modules[name]) is not ModuleType
"""


def in_new_process(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGINNING + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_inference_leaves_put_off_what_it_does_not_need() -> None:
    printed = in_new_process("""
torch_start.hasten_torch()
import torch
import qcode.engine.engine
print((torch.ones(2, 3) @ torch.ones(3, 2)).sum().item())
print([is_put_off(name) for name in torch_start.PUT_OFF])
""")
    assert printed.split("\n") == ["12.0", "[True, True]", ""]


def test_what_is_put_off_is_there_when_it_is_asked_for() -> None:
    in_new_process("""
torch_start.hasten_torch()
import torch
program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
assert program.module()(torch.ones(1, 2)).shape == (1, 3)
import torch.export.exported_program as submodule
assert isinstance(program, submodule.ExportedProgram)
assert torch.export.__spec__.loader is torch.export.__loader__
assert not any(map(is_put_off, torch_start.PUT_OFF))
""")


def test_a_part_of_what_is_put_off_is_imported_once() -> None:
    in_new_process("""
torch_start.hasten_torch()
import torch
from torch.export.exported_program import ExportedProgram
program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
assert isinstance(program, ExportedProgram)
assert sys.modules["torch.export.exported_program"].__spec__.origin.endswith(".py")
""")


def test_compilers_find_what_computes_shapes() -> None:
    in_new_process("""
torch_start.hasten_torch()
import torch
assert all(map(is_put_off, torch_start.PUT_OFF))
from torch._decomp import decomposition_table
assert decomposition_table
assert not any(map(is_put_off, torch_start.PUT_OFF))
assert torch._decomp.__spec__.origin.endswith(".py")
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    assert torch.cdist(torch.empty(5, 3), torch.empty(4, 3)).shape == (5, 4)
""")


def test_a_version_that_was_not_tried_is_imported_as_usual() -> None:
    in_new_process("""
torch_start.TRIED_VERSIONS = ("0.1.",)
torch_start.hasten_torch()
import torch
assert not any(map(is_put_off, torch_start.PUT_OFF))
assert (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item() == 12
""")


def test_once_torch_is_there_nothing_is_done() -> None:
    in_new_process("""
import torch
finders = list(sys.meta_path)
torch_start.hasten_torch()
assert sys.meta_path == finders
""")
