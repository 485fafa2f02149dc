"""Compile the C++ kernels: `python -m qcode.engine.kernels.build`.

The package's build hook loads this file by its path, so it imports the standard library only.
Every variant is compiled from the same sources into a shared library of its own; the one the CPU
can run is chosen when it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE_DIRECTORY = Path(__file__).resolve().parent

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = tuple(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni"))
_X86_VARIANTS = {
    "portable": (),
    "avx2": _AVX2,
    "avx512": (*_AVX2, *_AVX512, "-mprefer-vector-width=512"),
}
_ARM_VARIANTS = {
    "portable": (),
    "neon": ("-march=armv8.2-a+dotprod",),
    "neon_i8mm": ("-march=armv8.2-a+dotprod+i8mm",),
}
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fvisibility-inlines-hidden",
    "-pthread",
    # Not -ffast-math: it would change how the whole process treats denormals.
    "-fno-math-errno",
    "-fno-trapping-math",
    # Vectors wider than the baseline only pass between inlined functions.
    "-Wno-psabi",
)
"""What every variant is compiled with, on every architecture."""

_LIBRARY_FLAGS = ("-fPIC", "-shared")


class BuildFailed(Exception):
    """No compiler, or it could not compile the kernels; the text says which."""


def variants(machine: str = platform.machine()) -> dict[str, tuple[str, ...]]:
    """The variants for an architecture, the most capable last, and the compiler flags of each."""
    if machine.lower() in ("x86_64", "amd64"):
        return dict(_X86_VARIANTS)
    if machine.lower() in ("aarch64", "arm64"):
        return dict(_ARM_VARIANTS)
    return {"portable": ()}


def library_name(variant: str) -> str:
    """The file name of a variant's shared library."""
    return f"qcode_kernels_{variant}.so"


def source_digest(directory: Path = SOURCE_DIRECTORY) -> str | None:
    """Of all C++ sources in a directory, as it is compiled into the libraries; None without any."""
    sources = sorted((*directory.glob("*.cpp"), *directory.glob("*.h")))
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        content = source.read_bytes()
        digest.update(f"{source.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest() if sources else None


def find_compiler() -> str:
    """$CXX, or the first C++ compiler on the path. Raises BuildFailed without one."""
    chosen = os.environ.get("CXX")
    if chosen:
        return chosen
    for name in ("g++", "clang++", "c++"):
        found = shutil.which(name)
        if found:
            return found
    raise BuildFailed("no C++ compiler found (g++, clang++ or $CXX)")


def build(directory: Path = SOURCE_DIRECTORY) -> list[Path]:
    """Compile every variant into `directory` and return the libraries. Raises BuildFailed.

    The libraries appear whole and all together, or not at all. $CXX and $CXXFLAGS count.
    """
    compiler = find_compiler()
    digest = f'-DQCODE_SOURCE_DIGEST="{source_digest()}"'
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch,
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
    ):
        jobs = [
            pool.submit(_compile, compiler, (*flags, digest), Path(scratch, library_name(variant)))
            for variant, flags in variants().items()
        ]
        compiled = [job.result() for job in jobs]
        return [library.replace(directory / library.name) for library in compiled]


def _compile(compiler: str, flags: tuple[str, ...], library: Path) -> Path:
    sources = [str(path) for path in sorted(SOURCE_DIRECTORY.glob("*.cpp"))]
    chosen = shlex.split(os.environ.get("CXXFLAGS", ""))
    command = [compiler, *FLAGS, *_LIBRARY_FLAGS, *flags, *chosen, *sources, "-o", str(library)]
    error = _run(command)
    if error:
        raise BuildFailed(f"{compiler} could not compile the kernels:\n{error[:2000]}")
    return library


def _run(command: list[str]) -> str:
    """Run a compiler; empty when it succeeded, else what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


def main() -> int:
    """Build beside the sources and name the result; 1 when that fails."""
    try:
        built = build()
    except BuildFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for library in built:
        sys.stdout.write(f"{library}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
