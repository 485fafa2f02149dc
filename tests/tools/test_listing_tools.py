from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import Access
from qcode.protocol.tools import TodoDisplay, TodoItem
from qcode.tools.file_walk import walk_files
from qcode.tools.glob import MAX_FILES, Glob
from qcode.tools.glob_pattern import compile_glob
from qcode.tools.grep_search import GrepSearch
from qcode.tools.list_directory import MAX_ENTRIES, ListDirectory
from qcode.tools.output_limit import limit_text
from qcode.tools.todo_write import TodoWrite

if TYPE_CHECKING:
    from tests.tools.conftest import Project

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(project: Project) -> Project:
    project.write(".gitignore", "*.log\nbuild/\n!keep.log\n/only-root\n")
    project.write("a.py", "Value = 1\nother\n")
    project.write("a.log", "value")
    project.write("keep.log", "value")
    project.write("build/out.py", "value")
    project.write("only-root", "value")
    project.write("sub/.gitignore", "local.py\n!special.log\n")
    project.write("sub/local.py", "value")
    project.write("sub/special.log", "value")
    project.write("sub/only-root", "x\r\nmy VALUE\r\n")
    project.write("sub/deep/b.py", "values\n")
    project.write("node_modules/x.py", "value")
    project.write(".git/config", "value")
    project.write(".env", "value")
    project.write("image.bin", b"value\0value")
    (project.root / "loop").symlink_to(".")
    return project


def test_walking_leaves_out_what_gitignore_does(tree: Project) -> None:
    def walk(directory: str = ".", *, respect_ignore: bool = True) -> list[str]:
        start = tree.root / directory
        found = walk_files(tree.root, start, respect_ignore=respect_ignore)
        return [path.relative_to(tree.root).as_posix() for path in found]

    assert walk() == [
        ".env", ".gitignore", "a.py", "image.bin", "keep.log", "sub/.gitignore", "sub/deep/b.py",
        "sub/only-root", "sub/special.log",
    ]  # fmt: skip
    assert walk("sub") == ["sub/.gitignore", "sub/deep/b.py", "sub/only-root", "sub/special.log"]
    everything = walk(respect_ignore=False)
    assert {"a.log", "build/out.py", "node_modules/x.py", "sub/local.py"} < set(everything)
    assert not any(name.startswith((".git/", "loop")) for name in everything)


async def test_list_directory(tree: Project) -> None:
    tool = ListDirectory(tree.workspace)
    listed = (await tree.run(tool, ignore=["*.bin"])).content
    assert listed == "loop/\nsub/\n.env\n.gitignore\na.py\nkeep.log\n[6 ignored]"
    everything = (await tree.run(tool, respect_git_ignore=False)).content
    assert everything.splitlines()[:2] == ["build/", "loop/"]
    assert "a.log" in everything
    for index in range(MAX_ENTRIES):
        tree.write(f"many/{index}")
    assert "[1 more]" not in (await tree.run(tool, path="many")).content
    tree.write("many/one-more")
    assert (await tree.run(tool, path="many")).content.endswith("[1 more]")
    (tree.root / "empty").mkdir()
    assert (await tree.run(tool, path="empty")).content == "empty is empty."
    with pytest.raises(ToolError, match=r"a\.py is a file; use read_file"):
        await tree.run(tool, path="a.py")
    with pytest.raises(ToolError, match="there is no directory missing"):
        await tree.run(tool, path="missing")
    assert not (await tree.ask(tool, path="..")).inside_workspace


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.py", ["a.py"], ["sub/a.py", "a.pyc"]),
        ("**/*.py", ["a.py", "sub/deep/a.py"], ["a.c"]),
        ("src/**", ["src/a", "src/b/c"], ["src", "lib/a"]),
        ("src/**/t_*.py", ["src/t_a.py", "src/x/y/t_a.py"], ["src/a.py"]),
        ("?.{py,c}", ["a.py", "b.c"], ["ab.c", "a.rs"]),
        ("[a-c].py", ["b.py"], ["d.py"]),
        ("[!a].py", ["b.py"], ["a.py", "/.py"]),
        ("./a.py", ["a.py"], ["b.py"]),
        ("a+(b).py", ["a+(b).py"], ["aab.py"]),
    ],
)
def test_glob_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    expression = compile_glob(pattern)
    assert [name for name in matching + other if expression.fullmatch(name)] == matching


def test_a_pattern_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ToolError, match="not a glob pattern"):
        compile_glob("{a,b")


async def test_glob_gives_the_newest_first(tree: Project) -> None:
    tool = Glob(tree.workspace)
    os.utime(tree.root / "a.py", ns=(5, 5))
    os.utime(tree.root / "sub/deep/b.py", ns=(9, 9))
    assert (await tree.run(tool, pattern="**/*.py")).content == "sub/deep/b.py\na.py"
    assert (await tree.run(tool, pattern="*.py", path="sub/deep")).content == "sub/deep/b.py"
    assert (await tree.run(tool, pattern=f"{tree.root}/*.py")).content == "a.py"
    assert "**/b.py looks deeper" in (await tree.run(tool, pattern="b.py")).content
    with pytest.raises(ToolError, match="there is no directory missing"):
        await tree.run(tool, pattern="*", path="missing")
    for index in range(MAX_FILES + 1):
        tree.write(f"many/{index}.txt")
    assert (await tree.run(tool, pattern="many/*")).content.endswith("[1 more]")


RIPGREP = '''#!{python}
"""Stands in for ripgrep: takes its options and prints its JSON, from a search of its own."""
import json, os, re, sys
options = sys.argv[1:]
needed = ["--json", "--ignore-case", "--hidden", "--no-config", "--sort", "--regexp", "--"]
assert all(option in options for option in needed), options
pattern, target = options[options.index("--regexp") + 1], options[-1]
if "--fixed-strings" in options:
    pattern = re.escape(pattern)
if os.path.isfile(target):
    files = [target]
else:
    files = {files!r}
print(json.dumps({{"type": "begin", "data": {{}}}}))
for file in files:
    with open(file, newline="\\n") as text:
        for number, line in enumerate(text, 1):
            if re.search(pattern, line, re.IGNORECASE):
                print(json.dumps({{"type": "match", "data": {{
                    "path": {{"text": file}}, "lines": {{"text": line}}, "line_number": number,
                    "absolute_offset": 0, "submatches": []}}}}))
print(json.dumps({{"type": "summary", "data": {{}}}}))
'''


@pytest.fixture(params=["own walk", "ripgrep"])
def grep_search(request: pytest.FixtureRequest, tree: Project, tmp_path: Path) -> GrepSearch:
    if request.param == "own walk":
        return GrepSearch(tree.workspace, ripgrep="")
    program = tmp_path / "rg"
    found = [str(tree.root / name) for name in (".env", "a.py", "keep.log", "sub/deep/b.py",
             "sub/only-root", "sub/special.log")]  # fmt: skip
    program.write_text(RIPGREP.format(python=sys.executable, files=found))
    program.chmod(0o755)
    return GrepSearch(tree.workspace, ripgrep=str(program))


async def test_both_searches_answer_alike(tree: Project, grep_search: GrepSearch) -> None:
    async def search(pattern: str, **arguments: object) -> str:
        return (await tree.run(grep_search, pattern=pattern, **arguments)).content

    assert await search("VALUE") == (
        "a.py:1:Value = 1\nkeep.log:1:value\nsub/deep/b.py:1:values\n"
        "sub/only-root:2:my VALUE\nsub/special.log:1:value"
    )
    assert await search("^other$") == "a.py:2:other"
    assert await search("value", glob="*.py") == "a.py:1:Value = 1\nsub/deep/b.py:1:values"
    assert (
        await search("value", glob="sub/*") == "sub/only-root:2:my VALUE\nsub/special.log:1:value"
    )
    assert await search("value", path="a.log") == "a.log:1:value"
    assert await search("value", limit=1) == (
        "a.py:1:Value = 1\n[more than 1 matches; narrow the pattern, path or glob]"
    )
    assert await search("absent") == "No matches for 'absent'."
    assert await search("my (value") == (
        "[not a regular expression; searched for as it stands]\nNo matches for 'my (value'."
    )
    with pytest.raises(ToolError, match="there is no file or directory missing"):
        await search("x", path="missing")


async def test_search_asks_as_a_read(tree: Project, grep_search: GrepSearch) -> None:
    request = await tree.ask(grep_search, pattern="x", path=".env")
    assert (request.access, request.inside_workspace, request.protected) == (
        Access.READ,
        True,
        True,
    )


async def test_todo_write(project: Project) -> None:
    tool = TodoWrite()
    result = await project.run(
        tool, todos=[{"content": "one", "status": "completed"}, {"content": "two", "id": "7"}]
    )
    assert result.content == "[x] one\n[ ] two"
    assert result.display == TodoDisplay(
        items=(
            TodoItem(content="one", status="completed"),
            TodoItem(content="two", status="pending"),
        )
    )
    with pytest.raises(ValidationError):
        await project.run(tool, todos=[{"content": "x", "status": "done"}])


def test_long_text_keeps_its_ends() -> None:
    text = "".join(f"line {n}\n" for n in range(1000))
    limited = limit_text(text, 200)
    head, note, tail = limited.partition("\n[... ")
    assert text.startswith(head + "\n")
    assert text.endswith(tail.partition("]\n")[2])
    assert note
    assert len(limited) < 300
    assert limit_text(text, len(text)) == text
    assert limit_text("x" * 500, 100, tail_chars=0).startswith("x" * 100 + "\n[... 400 characters")
