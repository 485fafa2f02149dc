"""From the text of an answer to the changed file."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from qcode.agent.repair.definitions import Definition, find_definitions
from qcode.agent.repair.grammars import DIVIDER, REPLACE, SEARCH
from qcode.agent.repair.project_files import language_of
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One changed file. `old` occurs once in `before` and `new` takes its place in `after`."""

    path: str
    target: str
    before: str
    after: str
    old: str
    new: str


_FENCE = re.compile(r"```[\w+-]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


def read_definition(
    answer: str, definitions: Sequence[Definition], files: Mapping[str, str]
) -> Proposal | None:
    """The definition that the answer's code block rewrites, by its name; None if it rewrites
    none of them. Text around the block, decorators and other functions in it are ignored, and an
    answer at the wrong depth is re-indented."""
    for block in _FENCE.findall(answer) or [answer]:
        for definition in definitions:
            new = _rewritten(block, definition)
            if new is not None:
                return replace_lines(definition, new, files[definition.path])
    return None


def _rewritten(block: str, definition: Definition) -> str | None:
    if block.startswith(definition.header):
        lines = block.rstrip().splitlines()
    else:
        found = [
            item
            for item in find_definitions(definition.path, block, language_of(definition.path))
            if item.name == definition.name and item.kind == definition.kind
        ]
        if not found:
            return None
        lines = found[0].text.splitlines()
    own = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    if own == definition.indent:
        return "\n".join(lines)
    return "\n".join(
        definition.indent + line.removeprefix(own) if line.strip() else "" for line in lines
    )


def replace_lines(definition: Definition, new: str, text: str) -> Proposal:
    lines = text.splitlines(keepends=True)
    before = "".join(lines[: definition.start - 1])
    after = "".join(lines[definition.end :])
    old = "".join(lines[definition.start - 1 : definition.end])
    ending = old[len(old.rstrip("\r\n")) :]
    newline = "\r\n" if ending == "\r\n" else "\n"
    replaced = newline.join(new.splitlines()) + ending
    return _proposal(definition.path, definition.qualified, text, before, old, replaced, after)


def read_search_replace(answer: str, files: Mapping[str, str]) -> Proposal | None:
    """A SEARCH/REPLACE block; None if it is not one, or its SEARCH text is not in exactly one
    place of the files."""
    head, found, rest = answer.partition(SEARCH)
    search, divided, rest = rest.partition(DIVIDER)
    new, ended, _ = rest.partition(REPLACE)
    if not (found and divided and ended and search.strip()):
        return None
    if any("\r\n" in text for text in files.values()):
        search, new = search.replace("\n", "\r\n"), new.replace("\n", "\r\n")
    named = head.strip().splitlines()[-1:]
    paths = [path for path in files if path in named] or list(files)
    places = [path for path in paths if files[path].count(search) > 0]
    if len(places) != 1 or files[places[0]].count(search) != 1:
        return None
    text = files[places[0]]
    before, _, after = text.partition(search)
    return _proposal(
        places[0], f"line {before.count(chr(10)) + 1}", text, before, search, new, after
    )


def _proposal(
    path: str, target: str, text: str, before: str, old: str, new: str, after: str
) -> Proposal:
    """Widens `old` to the whole file where it stands in several places, since an edit must never
    have to choose."""
    changed = before + new + after
    if text.count(old) != 1:
        old, new = text, changed
    return Proposal(path=path, target=target, before=text, after=changed, old=old, new=new)


def undone(proposal: Proposal, text: str) -> Proposal:
    """The way back, from a text in which the proposal's `new` occurs once."""
    return Proposal(
        path=proposal.path,
        target=proposal.target,
        before=text,
        after=text.replace(proposal.new, proposal.old),
        old=proposal.new,
        new=proposal.old,
    )


def changes_nothing(proposal: Proposal) -> bool:
    """True where the program is the same: comments and layout do not count in Python."""
    if language_of(proposal.path) == "python":
        return _tree(proposal.before) == _tree(proposal.after) is not None
    return proposal.before.split() == proposal.after.split()


def fingerprint(proposal: Proposal) -> tuple[str, str]:
    """Equal for proposals that make the same program."""
    if language_of(proposal.path) == "python":
        return proposal.path, _tree(proposal.after) or proposal.after
    return proposal.path, " ".join(proposal.after.split())


def is_well_formed(proposal: Proposal) -> bool:
    return language_of(proposal.path) != "python" or _tree(proposal.after) is not None


def _tree(text: str) -> str | None:
    try:
        return ast.dump(_without_docstrings(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and (
            ast.get_docstring(node, clean=False) is not None and len(node.body) > 1
        ):
            node.body = node.body[1:]
    return tree
