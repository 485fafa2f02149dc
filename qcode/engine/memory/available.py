"""How much memory this process may take: what the machine has free, within its container's limit.

Needs no torch, so that every command can ask. A container's limit is that of its control group
and of every group around it: Linux's cgroup-v2 `memory.max`, or the v1 memory controller. The
process's own limit is that of its data (`ulimit -d`).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 2**60
"""Version 1 writes "no limit" as the largest whole number of pages there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """The names by which one version of control groups tells about memory."""

    mounts: tuple[str, ...]
    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    """Keys of memory.stat: file pages that go when memory is wanted. Not the whole page cache:
    that has shared memory in it."""


_V1 = _Version(
    mounts=("sys/fs/cgroup/memory",),
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    reclaimable=("total_active_file", "total_inactive_file"),
)
_V2 = _Version(
    mounts=("sys/fs/cgroup", "sys/fs/cgroup/unified"),
    limit="memory.max",
    usage="memory.current",
    reclaimable=("active_file", "inactive_file", "slab_reclaimable"),
)


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be taken now without pushing anything but page cache out."""
    # Where the system does not say, half of what is built in.
    free = _meminfo(root).get("MemAvailable", _built_in_bytes() // 2)
    return max(0, min([free, *(limit - used for limit, used in _limits(root))]))


def total_bytes(root: Path = Path("/")) -> int:
    """Memory that this process and its neighbours may take together."""
    built_in = _meminfo(root).get("MemTotal", _built_in_bytes())
    return min([built_in, *(limit for limit, _ in _limits(root))])


def _built_in_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _meminfo(root: Path) -> dict[str, int]:
    """The lines of /proc/meminfo in bytes; empty where there is none."""
    lines = _read(root / "proc/meminfo").splitlines()
    pairs = (line.partition(":")[::2] for line in lines)
    return {name: int(rest.split()[0]) * 1024 for name, rest in pairs if rest.split()}


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and unreclaimable use, in bytes, of this process and of each group around it."""
    data_limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if data_limit != resource.RLIM_INFINITY:
        yield data_limit, _data_bytes(root)
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield from _limits_along(root, _V2, path)
        elif "memory" in controllers.split(","):
            yield from _limits_along(root, _V1, path)


def _data_bytes(root: Path) -> int:
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _limits_along(root: Path, version: _Version, path: str) -> Iterator[tuple[int, int]]:
    """From the group at `path` up to the top of the hierarchy. In a container the lower part of
    the path may not exist, its own group being mounted as the top."""
    for mount in version.mounts:
        top = root / mount
        group = top / path.strip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(top):
                break
            limit = _read(directory / version.limit).strip()
            if limit.isdigit() and int(limit) < _NO_LIMIT:
                yield int(limit), _unreclaimable(directory, version)


def _unreclaimable(directory: Path, version: _Version) -> int:
    pairs = (line.split() for line in _read(directory / "memory.stat").splitlines())
    stat = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    used = _read(directory / version.usage).strip()
    reclaimable = sum(stat.get(name, 0) for name in version.reclaimable)
    return max(0, int(used) - reclaimable) if used.isdigit() else 0


def _read(path: Path) -> str:
    """A small file of the kernel's; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
