"""The answer in a file."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from qcode.cli.output_file import check_place, write_answer, write_whole
from qcode.protocol.errors import BadInput


def test_an_earlier_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_text("a much longer text from before")
    file.chmod(0o640)
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["answer"]


def test_a_reader_of_the_earlier_file_never_sees_half_of_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_text("old")
    with file.open() as earlier:
        write_whole(file, "new")
        assert earlier.read() == "old"


def test_a_new_file_has_the_mode_that_others_get(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    write_whole(tmp_path / "answer", "x")
    assert (tmp_path / "answer").stat().st_mode == usual.stat().st_mode


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\udc80")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["answer"]


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        check_place(tmp_path / "no" / "file")
    with pytest.raises(BadInput, match="is a folder"):
        check_place(tmp_path)
    check_place(tmp_path / "file")


def test_a_pipe_is_written_to_where_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        write_whole(pipe, "answer")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "answer")
    assert os.read(reader, 100) == b"answer"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)


@pytest.mark.anyio
async def test_the_reader_of_a_pipe_may_come_late(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = asyncio.create_task(write_answer(pipe, "answer", wait_s=60))
    await asyncio.sleep(0)  # it has begun, and nobody reads
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    await writing
    assert os.read(reader, 100) == b"answer"
    os.close(reader)


@pytest.mark.anyio
async def test_a_pipe_without_a_reader_is_given_up(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        await write_answer(pipe, "answer", wait_s=0.1)
