"""The parts of a function too long to be written again whole."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterator

from qcode.agent.repair.definitions import Definition, names_in

MAX_BLOCK_LINES = 20

_BEGINNING = re.compile(r"\s*\w+(?:\s+[\w(]\w*)?")
_WORD = re.compile(r"\w+")
_Compound = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.AsyncFor | ast.AsyncWith


def blocks_of(function: Definition, evidence: frozenset[str]) -> tuple[Definition, ...]:
    """Compound statements of a Python function, of at most `MAX_BLOCK_LINES`; those that share
    most words with the `evidence` (the failing test's words) come first. A word counts the more,
    the fewer blocks have it. Empty where the function cannot be parsed."""
    try:
        (node,) = ast.parse(textwrap.dedent(function.text)).body
    except (SyntaxError, ValueError):
        return ()
    found = list(_compound(node))
    lines = function.text.splitlines()
    texts = [lines[item.lineno - 1 : item.end_lineno] for item in found]
    headers = _headers([text[0] for text in texts])
    blocks = [
        Definition(
            path=function.path,
            name=function.name,
            qualified=f"{function.qualified}, line {function.start + item.lineno - 1}",
            kind="block",
            header=header,
            start=function.start + item.lineno - 1,
            end=function.start + (item.end_lineno or item.lineno) - 1,
            text="\n".join(text),
            calls=frozenset(names_in(item)),
        )
        for item, text, header in zip(found, texts, headers, strict=True)
        if header
    ]
    words = {block.start: frozenset(_WORD.findall(block.text)) & evidence for block in blocks}
    spread = Counter(word for some in words.values() for word in some)

    def weight(block: Definition) -> float:
        return sum(1 / spread[word] for word in words[block.start])

    return tuple(sorted(blocks, key=weight, reverse=True))


def _compound(node: ast.AST) -> Iterator[ast.stmt]:
    """The outermost compound statements that are short enough."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Compound) and _num_lines(child) <= MAX_BLOCK_LINES:
            yield child
        elif isinstance(child, (_Compound, ast.ExceptHandler)):
            yield from _compound(child)


def _num_lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _headers(first_lines: list[str]) -> list[str]:
    """How each block begins, as short as it still tells them apart, so that the rest of its first
    line can be changed; "" for one that begins just like another."""
    short = [match.group() if (match := _BEGINNING.match(line)) else line for line in first_lines]
    known, whole = Counter(short), Counter(first_lines)
    clash = [sum(line.startswith(header) for line in first_lines) > 1 for header in short]
    return [
        header if known[header] == 1 and not clashes else line if whole[line] == 1 else ""
        for header, line, clashes in zip(short, first_lines, clash, strict=True)
    ]
