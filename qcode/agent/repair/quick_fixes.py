"""Changes that the failure's own message spells out, tried before the model is asked."""

from __future__ import annotations

import ast
import re
import sys

from qcode.agent.repair.answers import Proposal, replace_lines
from qcode.agent.repair.failure import Failure
from qcode.agent.repair.imports import module_file
from qcode.agent.repair.project_files import ProjectFiles, is_test_file, language_of
from qcode.agent.repair.sources import Suspects

_UNDEFINED = re.compile(r"NameError: name '(\w+)' is not defined")
_COMPARED = re.compile(
    r"^(?:E\s+)?(?:AssertionError: )?(?:assert )?(?P<left>\S.*?) (?:==|!=) (?P<right>\S.*)$",
    re.MULTILINE,
)
# Too common to say that a constant of this value is the one that was compared.
_COMMON = ("0", "1", "-1", "0.0", "1.0", "''", "None", "True", "False", "[]", "()", "{}")


def quick_fixes(
    failure: Failure, suspects: Suspects, project: ProjectFiles
) -> tuple[Proposal, ...]:
    """The import of a module that is used without; another value for a constant that the test
    found wrong. Blocks."""
    return (*missing_imports(failure, project), *wrong_constants(failure, suspects))


def wrong_constants(failure: Failure, suspects: Suspects) -> tuple[Proposal, ...]:
    """Where a comparison of two literals failed and a suspected assignment has one of them as its
    value: the other one in its place."""
    found: list[Proposal] = []
    for compared in _COMPARED.finditer(failure.text):
        for present, wanted in (("left", "right"), ("right", "left")):
            values = [_literal(compared[side]) for side in (present, wanted)]
            if None in values or values[0] in _COMMON or values[0] == values[1]:
                continue
            for item in suspects.ranked:
                if item.kind == "assignment" and _value(item.text) == values[0]:
                    new = f"{item.text[: item.text.index('=')]}= {compared[wanted].strip()}"
                    found.append(replace_lines(item, new, suspects.files[item.path]))
    return tuple(found)


def _value(assignment: str) -> str | None:
    """The literal that an assignment on one line gives, as Python writes it."""
    _, equals, value = assignment.partition("=")
    return _literal(value) if equals and "#" not in value else None


def _literal(text: str) -> str | None:
    try:
        return repr(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def missing_imports(failure: Failure, project: ProjectFiles) -> tuple[Proposal, ...]:
    """For an undefined name that is a module: its import, in the file that lacks it. Blocks."""
    undefined = _UNDEFINED.search(failure.text)
    if not undefined or not failure.frames:
        return ()
    path = project.relative(failure.frames[-1].path)
    if path is None or is_test_file(path) or language_of(path) != "python":
        return ()
    name = undefined[1]
    text = project.read(path)
    known = name in sys.stdlib_module_names or module_file(name, path, project.paths())
    if text is None or not known:
        return ()
    changed = with_import(text, name)
    if changed is None:
        return ()
    return (
        Proposal(
            path=path,
            target=f"import {name}",
            before=text,
            after=changed,
            old=text,
            new=changed,
        ),
    )


def with_import(text: str, module: str) -> str | None:
    """The text with `import module` in front of its first import, else below its docstring;
    None where it cannot be parsed. The rest keeps its bytes."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return None
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    statement = f"import {module}{newline}"
    imports = [node for node in body if isinstance(node, ast.Import)]
    for later in imports:
        if later.names[0].name > module:
            return _inserted(lines, later.lineno - 1, statement)
    if imports:
        return _inserted(lines, imports[-1].end_lineno or imports[-1].lineno, statement)
    after = 0
    for node in body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (docstring or future):
            break
        after = node.end_lineno or node.lineno
    return _inserted(lines, after, (newline if after else "") + statement)


def _inserted(lines: list[str], index: int, statement: str) -> str:
    return "".join([*lines[:index], statement, *lines[index:]])
