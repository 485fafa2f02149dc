"""Which files of the project a file imports, directly and further on."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterable

from qcode.agent.repair.project_files import ProjectFiles, is_test_file, language_of

MAX_DEPTH = 3
_SCRIPT_IMPORT = re.compile(r"""(?:from|import|require\()\s*["'](\.{1,2}/[^"']+)["']""")
_INCLUDE = re.compile(r"""^\s*#include\s+"([^"]+)\"""", re.MULTILINE)


def import_closure(project: ProjectFiles, start: Iterable[str]) -> tuple[str, ...]:
    """The project's files that the `start` files import, nearest first, tests left out, at most
    `MAX_DEPTH` imports away. Languages whose imports do not name files (Go, Rust) give the files
    of the same language."""
    paths = project.paths()
    seen: dict[str, None] = {}
    level = list(start)
    for _ in range(MAX_DEPTH):
        found = [target for path in level for target in _imported(project, path, paths)]
        level = [path for path in dict.fromkeys(found) if path not in seen]
        seen.update(dict.fromkeys(level))
    return tuple(path for path in seen if not is_test_file(path))


def _imported(project: ProjectFiles, path: str, paths: tuple[str, ...]) -> list[str]:
    text = project.read(path) or ""
    match language_of(path):
        case "python":
            return [
                found
                for module in python_modules(path, text)
                if (found := module_file(module, path, paths))
            ]
        case "javascript" | "typescript":
            return [
                found
                for name in _SCRIPT_IMPORT.findall(text)
                if (found := _script_file(name, path, paths))
            ]
        case "c" | "cpp":
            names = {posixpath.basename(name).split(".")[0] for name in _INCLUDE.findall(text)}
            return [item for item in paths if posixpath.basename(item).split(".")[0] in names]
        case language:
            return [item for item in paths if language_of(item) == language and item != path]


def python_modules(path: str, text: str) -> list[str]:
    """Dotted names that a Python file imports; a relative import is resolved from its path. For
    `from a import b` both `a.b` and `a` are given, since `b` may be a module."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    package = path.split("/")[:-1]
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            modules.extend(f"{base}.{alias.name}" for alias in node.names)
            modules.append(base)
    return modules


def module_file(module: str, importer: str, paths: Iterable[str]) -> str | None:
    """The file of a dotted module name: the one that ends so, nearest to the importer, then the
    least deep (the import root may be `src` or the test's own directory)."""
    if not module:
        return None
    stem = module.replace(".", "/")
    endings = (f"{stem}.py", f"{stem}/__init__.py")
    found = [
        path
        for path in paths
        if path in endings or path.endswith(tuple("/" + ending for ending in endings))
    ]
    folder = posixpath.dirname(importer)
    return min(
        found,
        key=lambda path: (posixpath.dirname(path) != folder, path.count("/"), path),
        default=None,
    )


def _script_file(name: str, importer: str, paths: tuple[str, ...]) -> str | None:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(importer), name))
    endings = ("", ".js", ".ts", ".mjs", ".cjs", ".jsx", ".tsx", "/index.js", "/index.ts")
    stem = target.removesuffix(".js")
    return next(
        (base + end for base in (target, stem) for end in endings if base + end in paths), None
    )
