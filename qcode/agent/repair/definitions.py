"""The parts of a source file that can be rewritten alone: functions, methods, assignments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Literal

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Lines `start` to `end` (from 1, inclusive) of the file at `path`.

    `header` is how its first line begins, indentation included, up to the point where the rest is
    free: `def name(`, `NAME =`. A block is a compound statement inside a function. `calls` are the
    names that are called or read inside.
    """

    path: str
    name: str
    qualified: str
    kind: Literal["function", "assignment", "block"]
    header: str
    start: int
    end: int
    text: str
    calls: frozenset[str] = frozenset()

    @property
    def indent(self) -> str:
        return self.header[: len(self.header) - len(self.header.lstrip())]

    @property
    def num_lines(self) -> int:
        return self.end - self.start + 1


def find_definitions(path: str, text: str, language: str) -> tuple[Definition, ...]:
    """In file order. A file that cannot be parsed has the definitions that indentation or braces
    still show."""
    if language == "python":
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return tuple(_indented(path, text))
        return tuple(_python(path, text.splitlines(), tree.body, ""))
    return tuple(_braced(path, text)) if language else ()


def _python(path: str, lines: list[str], body: list[ast.stmt], scope: str) -> Iterator[Definition]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield _definition(
                    path, lines, node, node.name, scope, "function", r".*?\bdef\s+\w+\s*\(?"
                )
            case ast.ClassDef():
                yield from _python(path, lines, node.body, f"{scope}{node.name}.")
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield _definition(path, lines, node, name, scope, "assignment", r".*?=")
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                yield _definition(path, lines, node, name, scope, "assignment", r"\s*\w+\s*:")
            case ast.If() | ast.Try():
                yield from _python(path, lines, node.body, scope)
            case _:
                pass


def _definition(
    path: str,
    lines: list[str],
    node: ast.stmt,
    name: str,
    scope: str,
    kind: Literal["function", "assignment"],
    header: str,
) -> Definition:
    end = node.end_lineno or node.lineno
    start_of_line = re.match(header, lines[node.lineno - 1])
    return Definition(
        path=path,
        name=name,
        qualified=scope + name,
        kind=kind,
        header=start_of_line.group() if start_of_line else lines[node.lineno - 1],
        start=node.lineno,
        end=end,
        text="\n".join(lines[node.lineno - 1 : end]),
        calls=frozenset(names_in(node)),
    )


def names_in(node: ast.AST) -> set[str]:
    """Names and attributes used anywhere inside, and class names that are called."""
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return names | {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


_PYTHON_HEADER = re.compile(r"^([ \t]*)((?:async\s+)?def\s+(\w+)\s*\()", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_$][\w$]*")


def _indented(path: str, text: str) -> Iterator[Definition]:
    """Functions of Python text that does not parse: a header and the deeper lines after it."""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        found = _PYTHON_HEADER.match(line)
        if not found:
            continue
        indent, end = found[1], number
        for later in range(number + 1, len(lines) + 1):
            body = lines[later - 1]
            if body.strip() and not body.startswith((indent + " ", indent + "\t")):
                break
            if body.strip():
                end = later
        yield _plain(path, lines, found[3], found[0], number, end)


# Function headers of the brace languages: `function f(`, `func (r T) f(`, `fn f(`,
# `const f = (`, and methods `f(x) {` alone on a line.
_BRACED_HEADERS = re.compile(
    r"""^[ \t]*(?:
        (?:export\s+)?(?:default\s+)?(?:async\s+)?function\s*\*?\s*(?P<function>[\w$]+)\s*[(<]
      | (?:export\s+)?(?:const|let|var)\s+(?P<arrow>[\w$]+)\s*(?::[^=]+)?=\s*(?:async\s*)?
        (?=[^;]*=>)
      | func\s*(?:\([^)]*\)\s*)?(?P<go>\w+)\s*[(\[]
      | (?:pub(?:\([^)]*\))?\s+)?(?:const\s+|async\s+|unsafe\s+)*fn\s+(?P<rust>\w+)\s*[(<]
      | (?:(?:public|private|protected|static|async|get|set|final|override|virtual|inline)\s+)*
        (?:[\w$<>\[\],.:*&?]+[ \t*&]+)?(?P<method>[\w$~]+)\s*\((?=[^;{}]*\)[^;{}=]*\{)
    )""",
    re.VERBOSE | re.MULTILINE,
)
_KEYWORDS = frozenset({"if", "for", "while", "switch", "catch", "return", "else", "do", "with"})


def _braced(path: str, text: str) -> Iterator[Definition]:
    lines = text.splitlines()
    for found in _BRACED_HEADERS.finditer(text):
        name = next(value for value in found.groupdict().values() if value)
        opening = text.find("{", found.end())
        if name in _KEYWORDS or opening < 0:
            continue
        closing = matching_brace(text, opening)
        if closing is None:
            continue
        start = text.count("\n", 0, found.start()) + 1
        end = text.count("\n", 0, closing) + 1
        if end > start:
            yield _plain(path, lines, name, found[0], start, end)


def matching_brace(text: str, opening: int) -> int | None:
    """The index of the brace that closes the one at `opening`; quotes and comments are skipped,
    regular expression literals are not recognised."""
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|[{}]""",
        re.DOTALL,
    )
    depth = 0
    for found in token.finditer(text, opening):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                return found.start()
    return None


def _plain(path: str, lines: list[str], name: str, header: str, start: int, end: int) -> Definition:
    text = "\n".join(lines[start - 1 : end])
    return Definition(
        path=path,
        name=name,
        qualified=name,
        kind="function",
        header=header,
        start=start,
        end=end,
        text=text,
        calls=frozenset(_WORD.findall(text)),
    )
