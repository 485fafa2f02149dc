from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qcode.protocol.errors import NotText, ToolError
from qcode.protocol.permissions import Access
from qcode.tools.read_file import MAX_CHARS, MAX_LINES, ReadFile

if TYPE_CHECKING:
    from tests.tools.conftest import Project

pytestmark = pytest.mark.anyio


@pytest.fixture
def read_file(project: Project) -> ReadFile:
    return ReadFile(project.workspace, project.records)


async def test_lines_come_with_their_numbers(project: Project, read_file: ReadFile) -> None:
    project.write("src/a.py", "one\r\ntwo\r\n\r\nfour")
    result = await project.run(read_file, file_path="src/a.py")
    assert result.content == "     1\tone\n     2\ttwo\n     3\t\n     4\tfour"


async def test_a_part_says_where_it_goes_on(project: Project, read_file: ReadFile) -> None:
    project.write("a", "".join(f"{n}\n" for n in range(1, MAX_LINES + 500)))
    part = await project.run(read_file, file_path="a", offset=2, limit=2)
    assert (
        part.content
        == f"     3\t3\n     4\t4\n[lines 3-4 of {MAX_LINES + 499}; go on with offset=4]"
    )
    whole = await project.run(read_file, file_path="a")
    assert whole.content.endswith(f"[lines 1-{MAX_LINES} of 2499; go on with offset={MAX_LINES}]")
    rest = await project.run(read_file, file_path="a", offset=MAX_LINES, limit=10_000)
    assert rest.content.endswith("[lines 2001-2499 of 2499]")
    with pytest.raises(ToolError, match="only 2499 lines"):
        await project.run(read_file, file_path="a", offset=2499)


async def test_much_text_is_bounded_and_long_lines_are_cut(
    project: Project, read_file: ReadFile
) -> None:
    project.write("wide", "x" * 5000 + "\n")
    assert "… [3000 more characters]" in (await project.run(read_file, file_path="wide")).content
    project.write("heavy", ("é" * 1000 + "\n") * 1000)
    content = (await project.run(read_file, file_path="heavy")).content
    assert len(content) < MAX_CHARS + 100
    assert "go on with offset=" in content


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("missing.py", ToolError, "there is no file missing.py$"),
        ("a.py", ToolError, "did you mean src/a.py?"),
        ("src/aa.py", ToolError, "did you mean src/a.py?"),
        ("src", ToolError, "src is a directory; use list_directory"),
        ("image", NotText, "binary file of 4 bytes"),
    ],
)
async def test_failures_say_what_to_do(
    project: Project, read_file: ReadFile, path: str, error: type[ToolError], message: str
) -> None:
    project.write("src/a.py", "x")
    project.write(".env", "x")
    project.write("image", b"\x89P\0G")
    with pytest.raises(error, match=message):
        await project.run(read_file, file_path=path)


async def test_an_empty_file(project: Project, read_file: ReadFile) -> None:
    project.write("empty")
    assert (await project.run(read_file, file_path="empty")).content == "empty is empty."


async def test_the_permission_question_is_about_the_real_file(
    project: Project, read_file: ReadFile, tmp_path: Path
) -> None:
    (project.root / "link").symlink_to("/etc/hosts")
    inside = await project.ask(read_file, file_path="a.py")
    assert (inside.access, inside.inside_workspace, inside.protected) == (Access.READ, True, False)
    assert inside.target == str(project.root / "a.py")
    assert not (await project.ask(read_file, file_path="link")).inside_workspace
    assert (await project.ask(read_file, file_path="sub/.env")).protected
    spilled = tmp_path / "spilled"
    reader = ReadFile(project.workspace, project.records, also_inside=(spilled,))
    assert (await project.ask(reader, file_path=str(spilled / "x.txt"))).inside_workspace
    assert not (await project.ask(reader, file_path=str(spilled) + "2/x.txt")).inside_workspace
