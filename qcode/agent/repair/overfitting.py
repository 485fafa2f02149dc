"""A guard against changes that only satisfy the one test that was shown."""

from __future__ import annotations

import ast
import re

from qcode.agent.repair.answers import Proposal
from qcode.agent.repair.project_files import language_of

_LITERAL = re.compile(r"""\d+(?:\.\d+)?|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_COMMON = frozenset({"0", "1", "2", "-1", "''", '""', "0.0", "1.0", "100"})


def special_cases(proposal: Proposal, test_source: str) -> bool:
    """True where the change adds a comparison with, or a return of, a literal of the test that
    the file did not contain before: the mark of an answer written for one input."""
    expected = _literals(test_source) - _literals(proposal.before) - _COMMON
    if not expected:
        return False
    if language_of(proposal.path) != "python":
        return any(
            re.search(rf"(?:===?|return)\s*{re.escape(literal)}", proposal.new)
            for literal in expected
        )
    try:
        tree = ast.parse(proposal.after)
    except (SyntaxError, ValueError):
        return False
    return any(literal in expected for node in ast.walk(tree) for literal in _decisive(node))


def _decisive(node: ast.AST) -> list[str]:
    """Literals that the node compares with or returns, as they are written."""
    match node:
        case ast.Compare(left=left, comparators=others):
            found: list[ast.expr] = [left, *others]
        case ast.Return(value=ast.Constant() as value):
            found = [value]
        case _:
            return []
    return [
        text
        for item in found
        for constant in ast.walk(item)
        if isinstance(constant, ast.Constant)
        for text in (repr(constant.value), str(constant.value))
    ]


def _literals(source: str) -> set[str]:
    """Numbers as written; strings with and without their quotes, in Python's quoting."""
    found: set[str] = set()
    for literal in _LITERAL.findall(source):
        found.add(literal)
        if literal[0] in "\"'":
            found.add(repr(literal[1:-1]))
    return found
