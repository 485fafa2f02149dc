"""A model larger than its memory: `python -m benchmarks.paged_experts DENSE.gguf`.

Makes a mixture of experts from a dense model (see `moe_from_dense`), larger than the memory limit,
and runs it with `qcode model run` in a process that may not take more. Its text must be that of the
dense model, run without a limit.

The limit is one of, in this order:
- a control group made below `--cgroup DIRECTORY` (version 1 memory or version 2), which counts the
  pages of mapped files too: the strictest proof;
- a scope of `systemd-run --user`, the same thing where a user manager runs;
- `ulimit -d`, which counts what the process allocates but not what it maps.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.moe_from_dense import repeat_experts

PROMPT = "def fibonacci(n: int) -> list[int]:\n"
MIB = 2**20
_POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How a process is held to its memory."""

    name: str
    command_prefix: tuple[str, ...] = ()
    enter: Callable[[], None] | None = None
    """Called in the child before it runs its command."""
    group: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`anonymous` and `mapped` are the largest resident sizes seen, in bytes."""

    text: str
    seconds: float
    anonymous: int
    mapped: int


@contextmanager
def control_group(parent: Path, limit_bytes: int) -> Iterator[Limit]:
    """A group of our own below `parent`, for the one child that enters it."""
    group = parent / f"qcode-paged-experts-{os.getpid()}"
    group.mkdir()
    try:
        first_version = (group / "memory.limit_in_bytes").exists()
        name = "memory.limit_in_bytes" if first_version else "memory.max"
        (group / name).write_text(str(limit_bytes))
        version = "version 1" if first_version else "version 2"
        yield Limit(
            name=f"control group, {version}",
            enter=lambda: _write(group / "cgroup.procs", str(os.getpid())),
            group=group,
        )
    finally:
        group.rmdir()


@contextmanager
def process_limit(limit_bytes: int) -> Iterator[Limit]:
    scope = ("systemd-run", "--user", "--scope", "--quiet", "-p", f"MemoryMax={limit_bytes}")
    if (
        shutil.which(scope[0])
        and not subprocess.run([*scope, "true"], capture_output=True).returncode
    ):
        yield Limit(name="systemd scope", command_prefix=scope)
    else:
        data = (limit_bytes, limit_bytes)
        yield Limit(
            name="ulimit -d (allocated memory only)",
            enter=lambda: resource.setrlimit(resource.RLIMIT_DATA, data),
        )


def run_model(model: Path, max_tokens: int, limit: Limit | None = None) -> Outcome:
    """Greedy text of the prompt. Raises CalledProcessError when the command fails."""
    command = [*(limit.command_prefix if limit else ()), sys.executable, "-m", "qcode", "model"]
    command += ["run", str(model), PROMPT, "--raw", "--temperature", "0", "--context", "1024"]
    command += ["--max-tokens", str(max_tokens)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, preexec_fn=limit.enter if limit else None
        )
        anonymous = mapped = 0
        while process.poll() is None:
            sizes = resident_bytes(process.pid)
            anonymous, mapped = max(anonymous, sizes[0]), max(mapped, sizes[1])
            time.sleep(_POLL_S)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - start
    return Outcome(text=text, seconds=seconds, anonymous=anonymous, mapped=mapped)


def resident_bytes(pid: int) -> tuple[int, int]:
    """What of a process is in memory: what it allocated, and what it mapped."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    anonymous, mapped = (
        int(fields.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "RssFile")
    )
    return anonymous, mapped


def forget_pages(path: Path) -> None:
    """Drop a file from the page cache, so that it is read from disk again."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_of(group: Path) -> str:
    """The most memory a group held, page cache included, and how often it met its limit."""
    for peak, failures in (
        ("memory.max_usage_in_bytes", "memory.failcnt"),
        ("memory.peak", "memory.events"),
    ):
        if (group / peak).exists():
            met = " ".join((group / failures).read_text().split())
            used = int((group / peak).read_text()) / MIB
            return f"{used:.0f} MiB with file pages; limit met: {met}"
    return "not told"


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dense", type=Path)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--limit-mib", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--cgroup", type=Path, help="a directory below which a group may be made")
    parser.add_argument("--folder", type=Path, help="where the mixture is written meanwhile")
    options = parser.parse_args(arguments)
    limit_bytes = options.limit_mib * MIB
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="paged-experts-") as folder:
        mixture = Path(folder) / "mixture.gguf"
        repeat_experts(options.dense, mixture, num_experts=options.experts)
        size = mixture.stat().st_size
        print(f"file     {size / MIB:.0f} MiB, {options.experts} experts a layer, 2 a token")
        dense = run_model(options.dense, options.tokens)
        print(f"dense    {dense.seconds:.1f} s without a limit")
        forget_pages(mixture)
        limited = (
            control_group(options.cgroup, limit_bytes)
            if options.cgroup
            else process_limit(limit_bytes)
        )
        with limited as limit:
            print(f"limit    {options.limit_mib} MiB by {limit.name}")
            paged = run_model(mixture, options.tokens, limit)
            if limit.group:
                print(f"peak     {peak_of(limit.group)}")
        print(
            f"mixture  {paged.seconds:.1f} s; at most {paged.anonymous / MIB:.0f} MiB allocated, "
            f"{paged.mapped / MIB:.0f} MiB mapped"
        )
    same = paged.text == dense.text
    print(f"text     {'equal to' if same else 'DIFFERENT FROM'} the dense model's:\n{paged.text}")
    if not same:
        print(f"dense model's text:\n{dense.text}")
    if size <= limit_bytes:
        print("The file is not larger than the limit: nothing is proved.", file=sys.stderr)
    return 0 if same and size > limit_bytes else 1


if __name__ == "__main__":
    sys.exit(main())
