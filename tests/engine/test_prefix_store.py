"""The files of the prefix cache: whatever happens to them, what is found is what was written."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.memory.prefix_segment import DamagedSegment, SegmentFile, SegmentHeader
from qcode.engine.memory.prefix_store import (
    PrefixStore,
    StoreFull,
    clear,
    stored_models,
)
from qcode.engine.scheduling.prefix_digest import ROOT, digest_of

FINGERPRINT = b"f" * 16
BLOCK = 4
BLOCK_BYTES = 24
BIG = 1 << 30


def content(prefix: Sequence[int]) -> bytes:
    """What a block at the end of this prefix holds: as with keys and values, all of it counts."""
    digest = digest_of(b"content", list(prefix))
    return (digest * 2)[:BLOCK_BYTES]


def add(store: PrefixStore, tokens: Sequence[int], first: int = 0) -> Path:
    """Write the blocks of `tokens` from the block `first` on as one segment."""
    parent = ROOT
    for index in range(first):
        parent = digest_of(parent, list(tokens[index * BLOCK : (index + 1) * BLOCK]))
    ends = range((first + 1) * BLOCK, len(tokens) + 1, BLOCK)
    blocks = [content(tokens[:end]) for end in ends]
    header = SegmentHeader(
        fingerprint=FINGERPRINT,
        parent=parent,
        tokens=tuple(tokens[first * BLOCK : first * BLOCK + len(blocks) * BLOCK]),
        block_size=BLOCK,
        block_bytes=BLOCK_BYTES,
        block_checksums=tuple(zlib.crc32(block) for block in blocks),
    )
    return store.add(header, blocks)


def read(store: PrefixStore, tokens: Sequence[int]) -> list[bytes]:
    """The blocks that are found for `tokens`, up to the first that is damaged."""
    found: list[bytes] = []
    with store.find(tokens, BLOCK) as matches:
        for match in matches:
            buffer = bytearray(match.num_blocks * BLOCK_BYTES)
            try:
                match.segment.read_blocks(0, match.num_blocks, memoryview(buffer))
            except DamagedSegment as damage:
                store.discard(match.segment, damage)
                return found
            found += [
                bytes(buffer[start : start + BLOCK_BYTES])
                for start in range(0, len(buffer), BLOCK_BYTES)
            ]
    return found


def right(tokens: Sequence[int], num_blocks: int) -> list[bytes]:
    return [content(tokens[: (index + 1) * BLOCK]) for index in range(num_blocks)]


def open_store(
    directory: Path, *, max_bytes: int = BIG, told: list[str] | None = None
) -> PrefixStore:
    tell = [] if told is None else told
    return PrefixStore(directory, FINGERPRINT, max_bytes=max_bytes, tell=tell.append)


def common_blocks(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    while (count + 1) * BLOCK <= min(len(left), len(right)) and left[
        : (count + 1) * BLOCK
    ] == right[: (count + 1) * BLOCK]:
        count += 1
    return count


texts = st.lists(st.integers(0, 2), min_size=0, max_size=24).map(
    lambda blocks: [token for block in blocks for token in [block] * BLOCK]
)


@settings(max_examples=60, deadline=None)
@given(stored=st.lists(texts, max_size=6), wanted=texts)
def test_the_longest_stored_beginning_is_found(stored: list[list[int]], wanted: list[int]) -> None:
    """Each text is written as the engine does: what is not found of it yet."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "prefixes")
        for tokens in stored:
            known = len(read(store, tokens))
            if known < len(tokens) // BLOCK:
                add(store, tokens, known)

        found = read(store, wanted)

        assert found == right(wanted, max((common_blocks(s, wanted) for s in stored), default=0))


def test_no_byte_can_be_changed_unnoticed(tmp_path: Path) -> None:
    tokens = list(range(4 * BLOCK))
    directory = tmp_path / "prefixes"
    path = add(open_store(directory), tokens)
    whole = path.read_bytes()
    for index in [*range(200), *range(len(whole) - 4 * BLOCK_BYTES, len(whole))]:
        damaged = bytearray(whole)
        damaged[index] ^= 0x41
        path.write_bytes(damaged)

        found = read(open_store(directory), tokens)

        assert found == right(tokens, len(found)), index


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_file_of_anything_is_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = add(open_store(Path(folder) / "prefixes"), list(range(12)))
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=64)))
        if path.read_bytes() == whole:
            return
        try:
            with SegmentFile(path, FINGERPRINT) as segment:
                num_blocks = segment.header.num_blocks
                buffer = bytearray(num_blocks * segment.header.block_bytes)
                segment.read_blocks(0, num_blocks, memoryview(buffer))
        except DamagedSegment:
            return
        assert bytes(buffer) == b"".join(right(list(range(12)), 3))


def test_a_segment_of_another_model_is_not_used(tmp_path: Path) -> None:
    told: list[str] = []
    directory = tmp_path / "prefixes"
    path = add(open_store(directory), list(range(12)))
    other = PrefixStore(directory, b"g" * 16, max_bytes=BIG, tell=told.append)
    elsewhere = directory / (b"g" * 16).hex()
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)

    assert read(other, list(range(12))) == []
    assert len(told) == 1


def test_what_was_used_least_recently_goes_first_and_ends_before_beginnings(
    tmp_path: Path,
) -> None:
    old, new = [0] * 40, [1] * 40
    store = open_store(tmp_path / "prefixes", max_bytes=4 * 4500)
    for text in (old, new):
        paths = [add(store, text[: 4 * BLOCK]), add(store, text[: 8 * BLOCK], 4)]
        store.mark_used(paths)
        store.mark_used(paths)
    add(store, [2] * 16)

    store.keep_within_bounds()

    assert read(store, new) == right(new, 8)
    assert read(store, old) == right(old, 4)
    assert read(store, [2] * 16) == right([2] * 16, 4)


def test_a_limit_smaller_than_one_prefix_is_said(tmp_path: Path) -> None:
    store = open_store(tmp_path / "prefixes", max_bytes=10)

    with pytest.raises(StoreFull):
        add(store, list(range(12)))
    assert read(store, list(range(12))) == []


def test_nobody_else_can_read_what_was_asked(tmp_path: Path) -> None:
    add(open_store(tmp_path / "prefixes"), list(range(12)))

    for path in [tmp_path / "prefixes", *(tmp_path / "prefixes").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_folder_that_others_can_write_is_not_written(tmp_path: Path) -> None:
    directory = tmp_path / "prefixes"
    directory.mkdir()
    directory.chmod(0o777)

    with pytest.raises(StoreFull):
        add(open_store(directory), list(range(12)))


def test_many_may_write_the_same_at_once(tmp_path: Path) -> None:
    tokens = list(range(40))
    directory = tmp_path / "prefixes"
    stores = [open_store(directory) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for first in (0, 3, 6):
            list(pool.map(lambda store, at=first: add(store, tokens, at), stores))

    assert read(open_store(directory), tokens) == right(tokens, 10)
    assert {path.suffix for path in directory.glob("*/*")} == {".kv", ".json"}


WRITE_FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_prefix_store import add, open_store
store = open_store(Path(sys.argv[1]))
number = 0
while True:
    add(store, [number] * 4 + list(range(36)))
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_leaves_whole_files_only(tmp_path: Path) -> None:
    directory = tmp_path / "prefixes"
    command = [sys.executable, "-c", WRITE_FOREVER, str(directory), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        written = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    told: list[str] = []

    for number in written:
        tokens = [number] * 4 + list(range(36))
        assert read(open_store(directory, told=told), tokens) == right(tokens, 10)
    assert told == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "prefixes")
    path = add(store, list(range(12)))
    abandoned, fresh = path.with_name("old.part"), path.with_name("new.part")
    abandoned.touch()
    fresh.touch()
    os.utime(abandoned, (1, 1))

    store.keep_within_bounds()

    assert not abandoned.exists()
    assert fresh.exists()
    assert path.exists()


def test_what_is_kept_can_be_listed_and_cleared(tmp_path: Path) -> None:
    directory = tmp_path / "prefixes"
    assert stored_models(directory) == []
    about = {"model": "/models/a.gguf", "kv_dtype": "float16"}
    store = PrefixStore(directory, FINGERPRINT, max_bytes=BIG, about=about)
    paths = [add(store, list(range(12))), add(store, list(range(20, 40)))]

    (model,) = stored_models(directory)

    assert (model.model, model.kv_dtype, model.num_segments) == ("/models/a.gguf", "float16", 2)
    assert model.num_bytes == sum(path.stat().st_size for path in paths)
    clear([model])
    assert stored_models(directory) == []
    add(store, list(range(12)))
    assert read(store, list(range(12))) == right(list(range(12)), 3)
