"""A change that breaks a file's syntax is told; anything else is passed over in silence."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qcode.tools.edit import Edit
from qcode.tools.read_file import ReadFile
from qcode.tools.syntax_check import MAX_CHARS, broken_syntax
from qcode.tools.write_file import WriteFile

if TYPE_CHECKING:
    from tests.tools.conftest import Project

BREAKS = [
    (
        "a.py",
        "def f():\n    return 1\n",
        "def f():\n    return (1\n",
        "line 2: '(' was never closed",
    ),
    ("a.py", "if x:\n    y()\n", "if x:\ny()\n", "line 2: expected an indented block"),
    ("old.py", "print 'x'\n", "print ('x'\n", "line 1: unexpected \"print ('x'\""),
    ("a.js", "f(1);\n", "f(1;\n", "line 1: ')' is missing"),
    ("a.jsx", "a = <b>x</b>;\n", "a = <b>x</;\n", "line 1"),
    ("a.ts", "let x: number = 1;\n", "let x: number = ;\n", "line 1: unexpected"),
    ("a.tsx", "let a: T = <b>x</b>;\n", "let a: T = <b>x;\n", "line 1"),
    ("a.go", "package a\nfunc f() {}\n", "package a\nfunc f() {\n", "line 2"),
    ("a.rs", "fn f() {}\n", "fn f() {}}\n", "line 1: unexpected '}'"),
    ("A.java", "class A { int x; }\n", "class A { int x }\n", "line 1: ';' is missing"),
    ("a.c", "int f(void) { return 1; }\n", "int f(void) { return 1 }\n", "line 1: ';' is missing"),
    ("a.h", "class A { int x; };\n", "class A { int x };\n", "line 1: ';' is missing"),
    ("a.cpp", "class A {};\n", "class A {;\n", "line 1"),
    ("a.sh", "if true; then x; fi\n", "if true; then x;\n", "'fi' is missing"),
    ("a.json", '{\n"a": 1\n}', '{\n"a": 1,\n}', "line 3: Expecting property name"),
    ("a.toml", "a = 1\r\nb = 2\r\n", "a = 1\r\nb =\r\n", "line 2: Invalid value"),
    ("a.yml", "a: [1]\n", "b: 1\na: [1\n", "line 3: "),
]


@pytest.mark.parametrize(("path", "good", "bad", "told"), BREAKS)
def test_a_break_is_told_with_its_line(path: str, good: str, bad: str, told: str) -> None:
    assert told in (broken_syntax(path, good, bad) or "")
    assert broken_syntax(path, good, good + "\n") is None
    assert broken_syntax(path, bad, bad + "\n") is None, "it was broken before"
    assert broken_syntax(path, bad, good) is None


@pytest.mark.parametrize("path", ["notes.md", "Makefile", "a.py.txt", ""])
def test_other_files_are_not_looked_at(path: str) -> None:
    assert broken_syntax(path, "x = 1", "x = (") is None


def test_a_huge_file_is_not_looked_at() -> None:
    assert broken_syntax("a.py", "x = 1\n", "(" * (MAX_CHARS + 1)) is None


def test_hostile_nesting_is_survived() -> None:
    for path in ("a.py", "a.json", "a.toml", "a.yaml", "a.js"):
        broken_syntax(path, "", "[" * 100_000)


def test_without_its_grammar_a_language_is_passed_over() -> None:
    """In a process of its own: what a test hides must not stay hidden."""
    code = (
        "import sys\n"
        "for name in ('python', 'go'): sys.modules[f'tree_sitter_{name}'] = None\n"
        "sys.modules['yaml'] = None\n"
        "from qcode.tools.syntax_check import broken_syntax as broken\n"
        "print(broken('a.go', 'package a', 'package'), broken('a.yaml', 'a: 1', 'a: ['))\n"
        "print(broken('a.py', 'x = 1', 'x = ('))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None None\nline 1: '(' was never closed\n"


@pytest.mark.anyio
async def test_tools_tell_it_and_write_all_the_same(project: Project) -> None:
    project.write("a.py", "f(1)\n")
    await project.run(ReadFile(project.workspace, project.records), file_path="a.py")
    edit = Edit(project.workspace, project.records)
    result = await project.run(edit, file_path="a.py", old_string="1)", new_string="1")
    assert not result.is_error
    assert result.content.endswith(
        "\nNote: a.py does not parse now; before this change it did: line 1: '(' was never closed."
    )
    again = await project.run(edit, file_path="a.py", old_string="1", new_string="2")
    assert "Note" not in again.content
    write = WriteFile(project.workspace, project.records)
    created = await project.run(write, file_path="b.py", content="def")
    assert created.content == (
        "Created b.py (1 lines).\nNote: b.py does not parse now: line 1: invalid syntax."
    )
