from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qcode.protocol.errors import FileChanged, OutsideWorkspace, ToolError
from qcode.protocol.permissions import Access, DiffDisplay
from qcode.tools.edit import Edit
from qcode.tools.read_file import ReadFile

if TYPE_CHECKING:
    from tests.tools.conftest import Project

pytestmark = pytest.mark.anyio

TEXT = "def f(x):\n    if x:\n        return 1\n    return 2\n"


@pytest.fixture
async def edit(project: Project) -> Edit:
    """`a.py` is there and has been read."""
    project.write("a.py", TEXT)
    await project.run(ReadFile(project.workspace, project.records), file_path="a.py")
    return Edit(project.workspace, project.records)


async def test_an_edit_shows_the_lines_as_they_are_now(project: Project, edit: Edit) -> None:
    result = await project.run(edit, file_path="a.py", old_string="return 1", new_string="pass")
    changed = TEXT.replace("return 1", "pass")
    assert (project.root / "a.py").read_text() == changed
    assert result.content == (
        "Edited a.py. It now reads:\n"
        "     1\tdef f(x):\n     2\t    if x:\n     3\t        pass\n     4\t    return 2"
    )
    assert result.display == DiffDisplay(path="a.py", old_text=TEXT, new_text=changed)
    assert result.changed_files == (str(project.root / "a.py"),)


async def test_one_edit_follows_another_without_reading_again(project: Project, edit: Edit) -> None:
    await project.run(edit, file_path="a.py", old_string="1", new_string="3")
    result = await project.run(
        edit, file_path="a.py", old_string="return", new_string="yield", replace_all=True
    )
    assert "in 2 places" in result.content
    assert (project.root / "a.py").read_text() == TEXT.replace("return 1", "yield 3").replace(
        "return", "yield"
    )


async def test_a_match_up_to_spacing_is_told(project: Project, edit: Edit) -> None:
    result = await project.run(
        edit, file_path="a.py", old_string="if x:\n    return 1", new_string="if x:\n    return 5"
    )
    assert (project.root / "a.py").read_text() == TEXT.replace("return 1", "return 5")
    assert "Note: old_string did not match exactly" in result.content


async def test_the_question_shows_the_change_and_makes_none(project: Project, edit: Edit) -> None:
    request = await project.ask(edit, file_path="a.py", old_string="1", new_string="3")
    assert (request.access, request.title, request.protected) == (Access.EDIT, "Edit a.py", False)
    assert request.preview == DiffDisplay(
        path="a.py", old_text=TEXT, new_text=TEXT.replace("1", "3")
    )
    assert (project.root / "a.py").read_text() == TEXT


async def test_an_empty_old_string_creates_a_file_and_never_replaces_one(
    project: Project, edit: Edit
) -> None:
    result = await project.run(edit, file_path="new/b.py", old_string="", new_string="x\ny\n")
    assert (project.root / "new/b.py").read_text() == "x\ny\n"
    assert result.content == "Created new/b.py (2 lines)."
    with pytest.raises(ToolError, match=r"a\.py exists"):
        await project.run(edit, file_path="a.py", old_string="", new_string="x")
    assert (await project.ask(edit, file_path="AGENTS.md", old_string="", new_string="x")).protected


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("unread.py", ToolError, "unread.py has not been read yet"),
        ("missing.py", ToolError, "there is no file missing.py"),
        ("../outside.py", OutsideWorkspace, "outside the workspace"),
        (".", OutsideWorkspace, "outside the workspace"),
        ("link", OutsideWorkspace, "outside the workspace"),
    ],
)
async def test_refusals(
    project: Project, edit: Edit, path: str, error: type[ToolError], message: str
) -> None:
    project.write("unread.py", TEXT)
    (project.root.parent / "outside.py").write_text(TEXT)
    (project.root / "link").symlink_to("../outside.py")
    for act in (project.ask, project.run):
        with pytest.raises(error, match=message):
            await act(edit, file_path=path, old_string="1", new_string="2")
    assert (project.root.parent / "outside.py").read_text() == TEXT


async def test_a_file_that_changed_since_is_left_alone(project: Project, edit: Edit) -> None:
    project.write("a.py", TEXT + "# by someone else\n")
    with pytest.raises(FileChanged, match="read it again"):
        await project.run(edit, file_path="a.py", old_string="1", new_string="2")
    assert (project.root / "a.py").read_text() == TEXT + "# by someone else\n"


async def test_bytes_outside_the_edit_are_copied(project: Project) -> None:
    data = b"\xff\xfe".join([b"caf\xe9 = 1\r\n", b"mixed = 2\n", b"no end"])
    project.write("latin", data)
    reader, edit = (
        ReadFile(project.workspace, project.records),
        Edit(project.workspace, project.records),
    )
    await project.run(reader, file_path="latin")
    await project.run(edit, file_path="latin", old_string="= 2", new_string="= é")
    assert (project.root / "latin").read_bytes() == data.replace(b"= 2", b"= \xe9")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [b"", b"END"])
async def test_only_the_changed_bytes_change(
    project: Project, mark: bytes, newline: bytes, final: bytes
) -> None:
    data = mark + newline.join([b"\tone", b"  two \xc3\xa9\xe2\x80\x94", b"", b"three"])
    data += newline.join([b"", final])
    project.write("a.txt", data)
    reader, edit = (
        ReadFile(project.workspace, project.records),
        Edit(project.workspace, project.records),
    )
    await project.run(reader, file_path="a.txt")
    await project.run(edit, file_path="a.txt", old_string="one\n  two é-", new_string="1\n  two é-")
    assert (project.root / "a.txt").read_bytes() == data.replace(b"one", b"1")
    await project.run(edit, file_path="a.txt", old_string="\n\nthree", new_string="\nx\nthree")
    assert (project.root / "a.txt").read_bytes() == data.replace(b"one", b"1").replace(
        newline * 2, newline + b"x" + newline
    )


async def test_a_long_change_is_shown_in_part(project: Project, edit: Edit) -> None:
    new = "\n".join(f"x{n}" for n in range(100))
    result = await project.run(edit, file_path="a.py", old_string="    return 2", new_string=new)
    assert "\n    44\tx40\n" in result.content
    assert "more changed lines]" in result.content
