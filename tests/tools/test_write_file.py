from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qcode.protocol.errors import FileChanged, OutsideWorkspace, ToolError
from qcode.protocol.permissions import DiffDisplay
from qcode.tools.read_file import ReadFile
from qcode.tools.write_file import WriteFile

if TYPE_CHECKING:
    from tests.tools.conftest import Project

pytestmark = pytest.mark.anyio


@pytest.fixture
def write_file(project: Project) -> WriteFile:
    return WriteFile(project.workspace, project.records)


async def test_a_new_file_is_written_as_given_and_may_be_written_again(
    project: Project, write_file: WriteFile
) -> None:
    result = await project.run(write_file, file_path="a/b.txt", content="one\ntwo")
    assert (project.root / "a/b.txt").read_text() == "one\ntwo"
    assert result.content == "Created a/b.txt (2 lines)."
    assert result.display == DiffDisplay(path="a/b.txt", old_text=None, new_text="one\ntwo")
    assert result.changed_files == (str(project.root / "a/b.txt"),)
    again = await project.run(write_file, file_path="a/b.txt", content="three")
    assert again.content == "Wrote a/b.txt (1 lines)."


async def test_a_file_is_replaced_only_as_it_was_read(
    project: Project, write_file: WriteFile
) -> None:
    path = project.write("a.txt", "old\n")
    with pytest.raises(ToolError, match="has not been read yet"):
        await project.run(write_file, file_path="a.txt", content="new")
    await project.run(ReadFile(project.workspace, project.records), file_path="a.txt")
    project.write("a.txt", "changed\n")
    with pytest.raises(FileChanged, match="read it again"):
        await project.run(write_file, file_path="a.txt", content="new")
    assert path.read_text() == "changed\n"


@pytest.mark.parametrize(
    ("old", "content", "written"),
    [
        (b"a\r\nb\r\n", "c\nd", b"c\r\nd\r\n"),
        (b"a\nb\n", "c\nd", b"c\nd\n"),
        (b"a\nb", "c\nd\n", b"c\nd\n"),
        (b"\xef\xbb\xbfa\n", "b\n", b"\xef\xbb\xbfb\n"),
        (b"a\n", "", b""),
    ],
)
async def test_the_style_of_the_old_file_is_kept(
    project: Project, write_file: WriteFile, old: bytes, content: str, written: bytes
) -> None:
    path = project.write("a", old)
    await project.run(ReadFile(project.workspace, project.records), file_path="a")
    await project.run(write_file, file_path="a", content=content)
    assert path.read_bytes() == written


async def test_refusals(project: Project, write_file: WriteFile) -> None:
    project.write("a", "same\n")
    await project.run(ReadFile(project.workspace, project.records), file_path="a")
    with pytest.raises(ToolError, match="already has exactly this content"):
        await project.run(write_file, file_path="a", content="same\n")
    with pytest.raises(OutsideWorkspace):
        await project.ask(write_file, file_path="/etc/passwd", content="x")
    (project.root / "dir").mkdir()
    with pytest.raises(ToolError, match="is a directory"):
        await project.run(write_file, file_path="dir", content="x")
    assert (await project.ask(write_file, file_path=".git/hooks/x", content="x")).protected
