"""Lark grammars, as llguidance reads them, that enumerate what an answer may aim at.

Only the target is enumerated: which definition, or which lines of a file. What comes after is
free text whose end is structural, so an answer can neither name what does not exist nor run on
into the next function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from qcode.agent.repair.definitions import Definition
from qcode.agent.repair.project_files import language_of

SEARCH = "<<<<<<< SEARCH\n"
DIVIDER = "=======\n"
REPLACE = ">>>>>>> REPLACE"
MAX_SEARCH_LINES = 3  # a small model goes on copying as long as it may
MAX_NEW_LINES = 8


def definition_grammar(definitions: Iterable[Definition]) -> str:
    """One fenced code block holding one of the definitions, rewritten whole.

    A Python definition ends before the next line that is not indented deeper, others with the
    brace at their own indentation. One blank line at a time may stand between the lines.
    """
    rules: list[str] = []
    names: list[str] = []
    for number, definition in enumerate(definitions):
        names.append(f"d{number}")
        fence = _literal(f"```{language_of(definition.path)}\n")
        rules.append(f"d{number}: {fence} {_literal(definition.header)} REST {_body(definition)}")
    return "\n".join([f'start: ({" | ".join(names)}) "```"', *rules, r"REST: /[^\n]*\n/"]) + "\n"


def _body(definition: Definition) -> str:
    indent = _pattern(definition.indent)
    deeper = rf"/\n?{indent}[ \t][ \t]*[^ \t\n][^\n]*\n/"
    if language_of(definition.path) != "python":
        return rf"({deeper})* /{indent}\}}[^\n]*\n/"
    closing = rf"/{indent}[\)\]\}}][^\n]*\n/"
    if definition.kind == "block":
        closing = rf"/{indent}(elif |else:|except|finally:)[^\n]*\n/"
    return f"({deeper} | {closing}){'*' if definition.kind == 'assignment' else '+'}"


def search_replace_grammar(lines: Mapping[str, Iterable[tuple[int, str]]]) -> str:
    """One SEARCH/REPLACE block whose SEARCH part is one to `MAX_SEARCH_LINES` of the given lines.

    `lines` maps a path to its (number, text) pairs; a run of lines goes on only to the next
    number. Where there are several paths the block begins with the path.
    """
    rules: list[str] = []
    blocks: list[str] = []
    for file_number, (path, numbered) in enumerate(lines.items()):
        pairs = list(numbered)
        prose = _prose(pairs)
        if not any(text.strip() for number, text in pairs if number not in prose):
            prose = set()
        literals = {number: _literal(text + "\n") for number, text in pairs}
        starts = []
        for number, text in pairs:
            if number in prose or not text.strip():
                continue
            rule = f"f{file_number}l{number}"
            starts.append(rule)
            run = ""
            for later in range(number + MAX_SEARCH_LINES - 1, number, -1):
                if all(between in literals for between in range(number, later + 1)):
                    run = f" ({literals[later]}{run})?"
            rules.append(f"{rule}: {literals[number]}{run}")
        heading = f"{_literal(path + chr(10))} " if len(lines) > 1 else ""
        blocks.append(f"({heading}{_literal(SEARCH)} ({' | '.join(starts)}))")
    return (
        "\n".join(
            [
                f"start: ({' | '.join(blocks)}) {_literal(DIVIDER)} NEW{{0,{MAX_NEW_LINES}}} "
                f"{_literal(REPLACE)}",
                *rules,
                r"NEW: /([^<=>\n][^\n]*)?\n/",
            ]
        )
        + "\n"
    )


_PROSE = re.compile(r"\s*(?:#|//|/?\*|@|(?:async\s+)?def\b|class\b)")
_DOCSTRING = re.compile(r"""\s*(?:\"{3}|'{3})""")
_TRIPLE = re.compile(r'"""|\'\'\'')


def _prose(pairs: Iterable[tuple[int, str]]) -> set[int]:
    """Lines where a fault is not looked for, though a search may run over them: comments,
    docstrings, headers. A model that copies would always begin there."""
    found: set[int] = set()
    inside = False
    for number, text in pairs:
        docstring = inside or bool(_DOCSTRING.match(text))
        if docstring or _PROSE.match(text):
            found.add(number)
        if docstring:
            inside ^= len(_TRIPLE.findall(text)) % 2 == 1
    return found


def _literal(text: str) -> str:
    return json.dumps(text)


def _pattern(indent: str) -> str:
    return indent.replace("\t", r"\t")
