"""Files mapped into memory: what is released leaves the process and can still be read."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors

from qcode.engine.checkpoint.mapped_file import MappedFile
from qcode.engine.models.loading import load_model

PAGES = 256


@pytest.fixture
def mapped(tmp_path: Path) -> MappedFile:
    path = tmp_path / "weights"
    path.write_bytes(bytes(page % 251 for page in range(PAGES)) * mmap.PAGESIZE)
    return MappedFile(path)


def test_released_bytes_read_the_same_again(mapped: MappedFile) -> None:
    before = mapped.view(0, mapped.size).clone()

    mapped.release(100, mapped.size - 300)

    assert mapped.view(0, mapped.size).equal(before)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_whole_pages_inside_the_range_leave_the_process(mapped: MappedFile) -> None:
    mapped.view(0, mapped.size).sum()
    assert resident_kib(mapped.path) == mapped.size // 1024

    mapped.release(1, mapped.size - 2)

    # The first and the last page also hold a byte outside the range.
    assert resident_kib(mapped.path) == 2 * mmap.PAGESIZE // 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_a_range_that_holds_no_whole_page_releases_nothing(mapped: MappedFile) -> None:
    mapped.view(0, mapped.size).sum()

    mapped.release(mmap.PAGESIZE + 1, mmap.PAGESIZE - 2)
    mapped.release(mmap.PAGESIZE - 1, 2)

    assert resident_kib(mapped.path) == mapped.size // 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_nothing_is_read_ahead_while_a_network_of_views_is_built(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model")
    weights = path / "model.safetensors"
    meanwhile: list[bool] = []

    loaded = load_model(path, progress=lambda _: meanwhile.append(is_read_at_random(weights)))

    assert meanwhile
    assert all(meanwhile)
    loaded.check_files()
    assert not is_read_at_random(weights)


def is_read_at_random(path: Path) -> bool:
    """Whether this process told so of its mapping of a file."""
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("VmFlags:"):
            return "rr" in line.split()
    raise AssertionError(f"{path} is not mapped")


def resident_kib(path: Path) -> int:
    """Resident memory of this process's mappings of a file."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total
