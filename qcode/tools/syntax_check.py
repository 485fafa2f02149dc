"""Whether a change broke a file's syntax. Pure, but for the grammars it loads at first use.

A file that did not parse before is left alone: it may be written in a dialect, a template or an
older version of its language that the parser does not know.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
import warnings
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MAX_CHARS = 1_000_000
_MAX_SHOWN_CHARS = 60
_MAX_YAML_BRACKETS = 5_000  # nested, they take its parser time to the square
_TOML_PLACE = re.compile(r"\(at line (\d+)")


class Fault(NamedTuple):
    """`line` counts from 1."""

    line: int
    what: str


def broken_syntax(path: str, old: str, new: str) -> str | None:
    """Says where `new` does not parse although `old` did; None for files of other kinds, and where
    the parser for their kind is not installed. A file that is new has the `old` text ""."""
    if max(len(old), len(new)) > MAX_CHARS:
        return None
    for check in _checks(path):
        try:
            if check(old) is not None:
                continue
            fault = check(new)
        except _NotInstalled:
            continue
        return None if fault is None else f"line {fault.line}: {fault.what}"
    return None


_Check = Callable[[str], Fault | None]


class _NotInstalled(Exception):
    pass


def _checks(path: str) -> tuple[_Check, ...]:
    """Those that apply, best first: the next is asked where the one before does not know the
    language of the old text."""
    suffix = PurePath(path).suffix.lower()
    own = _OWN_PARSERS.get(suffix)
    return (*([own] if own else []), *map(_grammar_check, _GRAMMARS.get(suffix, ())))


def _check_python(text: str) -> Fault | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the file's, not ours to show
            ast.parse(text)
    except SyntaxError as error:
        return Fault(error.lineno or 1, error.msg)
    except (ValueError, RecursionError, MemoryError) as error:
        return Fault(1, str(error))
    return None


def _check_json(text: str) -> Fault | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return Fault(error.lineno, error.msg)
    except (ValueError, RecursionError) as error:
        return Fault(1, str(error))
    return None


def _check_toml(text: str) -> Fault | None:
    try:
        tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        return Fault(int(place[1]) if place else text.count("\n") + 1, str(error))
    except (ValueError, RecursionError) as error:
        return Fault(1, str(error))
    return None


def _check_yaml(text: str) -> Fault | None:
    yaml = _import("yaml")
    if text.count("[") + text.count("{") > _MAX_YAML_BRACKETS:
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for _ in yaml.parse(
            text, Loader=loader
        ):  # the syntax alone: no tag is looked at, nothing is built
            pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return Fault(mark.line + 1 if mark else 1, error.problem or "not YAML")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return Fault(1, str(error))
    return None


_OWN_PARSERS: dict[str, _Check] = {
    ".py": _check_python,
    ".pyi": _check_python,
    ".json": _check_json,
    ".toml": _check_toml,
    ".yaml": _check_yaml,
    ".yml": _check_yaml,
}

_Grammar = tuple[str, str]
"""A module and the function in it that gives the language."""
_PYTHON = ("tree_sitter_python", "language")
_JAVASCRIPT = ("tree_sitter_javascript", "language")
_TYPESCRIPT = ("tree_sitter_typescript", "language_typescript")
_C = ("tree_sitter_c", "language")
_CPP = ("tree_sitter_cpp", "language")
_BASH = ("tree_sitter_bash", "language")
_GRAMMARS: dict[str, tuple[_Grammar, ...]] = {
    ".py": (_PYTHON,),
    ".pyi": (_PYTHON,),
    ".js": (_JAVASCRIPT,),
    ".mjs": (_JAVASCRIPT,),
    ".cjs": (_JAVASCRIPT,),
    ".jsx": (_JAVASCRIPT,),
    ".ts": (_TYPESCRIPT,),
    ".mts": (_TYPESCRIPT,),
    ".cts": (_TYPESCRIPT,),
    ".tsx": (("tree_sitter_typescript", "language_tsx"),),
    ".go": (("tree_sitter_go", "language"),),
    ".rs": (("tree_sitter_rust", "language"),),
    ".java": (("tree_sitter_java", "language"),),
    ".c": (_C,),
    ".h": (_C, _CPP),
    ".cc": (_CPP,),
    ".cpp": (_CPP,),
    ".cxx": (_CPP,),
    ".hpp": (_CPP,),
    ".hh": (_CPP,),
    ".sh": (_BASH,),
    ".bash": (_BASH,),
}


def _grammar_check(grammar: _Grammar) -> _Check:
    def check(text: str) -> Fault | None:
        root = _parser(*grammar).parse(text.encode("utf-8", "replace")).root_node
        return _first_fault(root) if root.has_error else None

    return check


def _parser(module: str, language: str) -> Parser:
    from tree_sitter import Language, Parser

    return Parser(Language(getattr(_import(module), language)()))


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _NotInstalled from None


def _first_fault(root: Node) -> Fault:
    """The first place the grammar could not make sense of."""
    node = root
    while not (node.is_error or node.is_missing):
        broken = (child for child in node.children if child.has_error or child.is_missing)
        inner = next(broken, None)
        if inner is None:
            break
        node = inner
    line = node.start_point.row + 1
    if node.is_missing:
        return Fault(line, f"{node.type!r} is missing")
    text = (node.text or b"").decode("utf-8", "replace").split("\n", 1)[0].strip()
    return Fault(line, f"unexpected {text[:_MAX_SHOWN_CHARS]!r}")
