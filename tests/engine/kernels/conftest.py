"""The kernels of this checkout, compiled once for the whole run."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qcode.engine.kernels import build
from qcode.engine.kernels.library import KernelLibrary, StaleLibrary, load

VARIANTS = list(build.variants())


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory with every variant: that of the package where it is up to date, else a new one
    that the workers of one run share."""
    if is_up_to_date(build.SOURCE_DIRECTORY):
        return build.SOURCE_DIRECTORY
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "compiled-kernels"
    directory.mkdir(exist_ok=True)
    try:
        build.find_compiler()
    except build.BuildFailed as error:
        pytest.skip(str(error))
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if len(list(directory.glob("*.so"))) < len(build.variants()):
            build.build(directory)
    return directory


def is_up_to_date(directory: Path) -> bool:
    """Whether every variant is there and newer than all it is made from."""
    sources = [directory / "build.py", *directory.glob("*.cpp"), *directory.glob("*.h")]
    newest = max(path.stat().st_mtime_ns for path in sources)
    libraries = [directory / build.library_name(variant) for variant in build.variants()]
    if not all(path.exists() and path.stat().st_mtime_ns > newest for path in libraries):
        return False
    try:
        load(directory)
    except StaleLibrary:  # a source changed while it was being compiled
        return False
    return True


@pytest.fixture(scope="session", params=VARIANTS)
def library(compiled_kernels: Path, request: pytest.FixtureRequest) -> KernelLibrary:
    """Each variant that this CPU can run."""
    best = load(compiled_kernels).variant
    if VARIANTS.index(request.param) > VARIANTS.index(best):
        pytest.skip(f"this CPU runs {best} kernels at most")
    return load(compiled_kernels, request.param)


@pytest.fixture
def random_tensor() -> Callable[..., torch.Tensor]:
    """Normally distributed, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return make
