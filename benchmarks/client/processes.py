"""Memory and processor time of a process, from /proc (Linux)."""

from __future__ import annotations

from pathlib import Path

_MIB = 1024.0  # of the kB that /proc gives


def tree_rss_mib(root: int) -> float:
    """Resident memory summed over the tree; pages that processes share count in each."""
    return sum(_field(pid, "VmRSS:") for pid in _tree(root)) / _MIB


def peak_rss_mib(pid: int) -> float:
    """The most that one process has had so far."""
    return _field(pid, "VmHWM:") / _MIB


def cpu_s(pid: int) -> float:
    """How long the threads of a process have run, those that have ended aside."""
    total_ns = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(schedstat.read_text().split()[0])
        except OSError:
            continue  # ended meanwhile
    return total_ns / 1e9


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found.extend(map(int, task.read_text().split()))
            except OSError:
                continue  # ended meanwhile
    return found


def _field(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
