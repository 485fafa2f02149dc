"""Free memory as the kernel tells it, within the limits of control groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qcode.engine.memory.available import available_bytes, total_bytes

GIB = 2**30
MEMINFO = {"MemTotal": 16 * GIB, "MemFree": 1 * GIB, "MemAvailable": 10 * GIB}


class FakeSystem:
    """The files in which Linux tells about memory, below a directory of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "".join(f"{k}: {v // 1024} kB\n" for k, v in MEMINFO.items()))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def group_v2(self, path: str, limit: int | str, current: int = 0, file_pages: int = 0) -> None:
        self.write(f"{path}/memory.max", f"{limit}\n")
        self.write(f"{path}/memory.current", f"{current}\n")
        shared = f"shmem {current}\nfile {current}\n"
        stat = f"{shared}inactive_file {file_pages // 2}\nactive_file {file_pages // 2}\n"
        self.write(f"{path}/memory.stat", stat)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_without_a_container_the_machine_decides(system: FakeSystem) -> None:
    assert available_bytes(system.root) == 10 * GIB
    assert total_bytes(system.root) == 16 * GIB


def test_a_container_may_take_what_its_limit_leaves(system: FakeSystem) -> None:
    system.write("proc/self/cgroup", "0::/\n")
    system.group_v2("sys/fs/cgroup", 4 * GIB, current=3 * GIB)
    assert available_bytes(system.root) == 1 * GIB
    assert total_bytes(system.root) == 4 * GIB


def test_file_pages_in_a_container_can_be_had_back(system: FakeSystem) -> None:
    """A model that was read counts as used, but its pages go when memory is wanted."""
    system.write("proc/self/cgroup", "0::/\n")
    system.group_v2("sys/fs/cgroup", 4 * GIB, current=3 * GIB, file_pages=2 * GIB)
    assert available_bytes(system.root) == 3 * GIB


def test_the_tightest_group_around_counts(system: FakeSystem) -> None:
    system.write("proc/self/cgroup", "0::/outer/inner\n")
    system.group_v2("sys/fs/cgroup/outer/inner", "max", current=1 * GIB)
    system.group_v2("sys/fs/cgroup/outer", 2 * GIB, current=1 * GIB)
    assert available_bytes(system.root) == 1 * GIB


def test_a_path_from_outside_the_container_leads_to_its_top(system: FakeSystem) -> None:
    system.write("proc/self/cgroup", "0::/machine/0123abcd\n")
    system.group_v2("sys/fs/cgroup", 2 * GIB, current=1 * GIB)
    assert total_bytes(system.root) == 2 * GIB


def test_the_first_version_of_control_groups(system: FakeSystem) -> None:
    system.write("proc/self/cgroup", "7:cpu:/box\n4:memory,hugetlb:/box\n0::/\n")
    group = "sys/fs/cgroup/memory/box"
    system.write(f"{group}/memory.limit_in_bytes", f"{6 * GIB}\n")
    system.write(f"{group}/memory.usage_in_bytes", f"{5 * GIB}\n")
    system.write(f"{group}/memory.stat", f"cache 9\ntotal_inactive_file {2 * GIB}\n")
    system.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert available_bytes(system.root) == 3 * GIB
    assert total_bytes(system.root) == 6 * GIB


def test_a_group_above_its_limit_leaves_nothing(system: FakeSystem) -> None:
    system.write("proc/self/cgroup", "0::/\n")
    system.group_v2("sys/fs/cgroup", 1 * GIB, current=2 * GIB)
    assert available_bytes(system.root) == 0


def test_where_nothing_is_told_the_machine_is_asked(tmp_path: Path) -> None:
    assert 0 < available_bytes(tmp_path) < total_bytes(tmp_path)


def test_this_machine_has_some() -> None:
    assert 0 < available_bytes() <= total_bytes()


def test_a_limit_on_the_data_of_the_process_counts() -> None:
    """`ulimit -d`, in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from qcode.engine.memory.available import *; print(available_bytes())",
    ]
    free, limited = (
        int(subprocess.run([*prefix, *command], capture_output=True, check=True, text=True).stdout)
        for prefix in ([], ["sh", "-c", 'ulimit -d 100000; exec "$@"', "sh"])
    )
    assert 0 < limited < 100_000 * 1024 < free
