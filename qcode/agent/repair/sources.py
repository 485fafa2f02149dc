"""From a failure to what must be read: the failing test, the files behind it, and the
definitions that may hold the fault, most suspicious first."""

from __future__ import annotations

import re

from qcode.agent.repair.definitions import Definition, find_definitions, matching_brace
from qcode.agent.repair.failure import Failure
from qcode.agent.repair.imports import import_closure
from qcode.agent.repair.project_files import ProjectFiles, is_test_file, language_of
from qcode.protocol.values import dataclass

MAX_FILES = 12
MAX_DISTANCE = 3  # calls between the test and a suspect
_WORD = re.compile(r"[A-Za-z_$][\w$]*")

# Weights of the evidence that a definition holds the fault. Being in the traceback says most, a
# call on the failing line of the test next; the rest only orders what is left.
IN_TRACEBACK = 100
CALLED_ON_FAILING_LINE = 60
CALLED_BY_TEST = 30
CALLED_FURTHER = 12
SHARES_NAME = 4
ASSIGNMENT_PENALTY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingTest:
    """Where the failing test stands. `source` is its text, with the functions of the same file
    that it calls; "" where it cannot be found."""

    path: str | None
    source: str = ""
    names: frozenset[str] = frozenset()
    failing_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """`files` maps paths to their text, most suspicious first; `ranked` are their definitions."""

    test: FailingTest
    files: dict[str, str]
    ranked: tuple[Definition, ...]


def find_suspects(
    failure: Failure, project: ProjectFiles, *, include_tests: bool = False
) -> Suspects:
    """Blocks while it reads files. `include_tests` lets test files be suspected as well."""
    framed = _framed_paths(failure, project)
    test = find_test(failure, project, framed)
    roots = [path for path in (test.path, *framed) if path]
    paths = [path for path in reversed(framed) if include_tests or not is_test_file(path)]
    paths += import_closure(project, roots or project.paths()[:MAX_FILES])
    if not paths and not roots:
        paths = [path for path in project.paths() if not is_test_file(path)]
    if include_tests and test.path:
        paths.append(test.path)
    files = {
        path: text
        for path in list(dict.fromkeys(paths))[:MAX_FILES]
        if (text := project.read(path))
    }
    found = [
        definition
        for path, text in files.items()
        for definition in find_definitions(path, text, language_of(path))
    ]
    return Suspects(test=test, files=files, ranked=rank(found, failure, test, project))


def _framed_paths(failure: Failure, project: ProjectFiles) -> list[str]:
    """Project files of the traceback, outermost first, each once."""
    found = [project.relative(frame.path) for frame in failure.frames]
    return list(dict.fromkeys(path for path in found if path))


def find_test(failure: Failure, project: ProjectFiles, framed: list[str]) -> FailingTest:
    candidates = [path for path in framed if is_test_file(path)]
    candidates += [path for path in (project.relative(failure.test.split("::")[0]),) if path]
    if not candidates and failure.function:
        candidates = [path for path in project.paths() if is_test_file(path)]
    for path in candidates:
        text = project.read(path) or ""
        lines = _lines_in(failure, project, path)
        failing_line = text.splitlines()[lines[-1] - 1].strip() if _valid(lines, text) else ""
        source = _text_of_test(path, text, failure.function, lines)
        if source:
            return FailingTest(
                path=path,
                source=source,
                names=frozenset(_WORD.findall(source)),
                failing_line=failing_line,
            )
    return FailingTest(path=candidates[0] if candidates else None)


def _lines_in(failure: Failure, project: ProjectFiles, path: str) -> list[int]:
    return [frame.line for frame in failure.frames if project.relative(frame.path) == path]


def _valid(lines: list[int], text: str) -> bool:
    return bool(lines) and 0 < lines[-1] <= text.count("\n") + 1


def _text_of_test(path: str, text: str, function: str, lines: list[int]) -> str:
    """The test function called `function`, the one around the failing line where several have
    that name, after the functions of its file that it uses."""
    if language_of(path) in {"javascript", "typescript"}:
        return _script_test(text, function)
    definitions = [
        item for item in find_definitions(path, text, language_of(path)) if item.kind == "function"
    ]
    named = [item for item in definitions if item.name == function]
    around = [item for item in named if any(item.start <= line <= item.end for line in lines)]
    test = next(iter(around or named), None)
    if test is None:
        return ""
    scope = test.qualified.removesuffix(test.name)
    used = [
        item
        for item in definitions
        if item is not test
        and not item.name.startswith("test")
        and (item.name in test.calls or item.qualified == f"{scope}setUp")
    ]
    parts = sorted([*used, test], key=lambda item: item.start)
    return "\n\n".join(_dedent(item.text) for item in parts)


def _dedent(text: str) -> str:
    indent = text[: len(text) - len(text.lstrip())]
    return "\n".join(line.removeprefix(indent) for line in text.splitlines())


def _script_test(text: str, name: str) -> str:
    """`test("name", () => {...})`: from the line that names it to its closing brace."""
    for quote in "\"'`":
        at = text.find(f"{quote}{name}{quote}") if name else -1
        if at < 0:
            continue
        start = text.rfind("\n", 0, at) + 1
        opening = text.find("{", at)
        closing = matching_brace(text, opening) if opening >= 0 else None
        if closing is not None:
            return _dedent(text[start : text.find("\n", closing) + 1 or len(text)].rstrip())
    return ""


def rank(
    definitions: list[Definition], failure: Failure, test: FailingTest, project: ProjectFiles
) -> tuple[Definition, ...]:
    """Most suspicious first; definitions without any evidence are left out, unless there would
    be none."""
    places = [(project.relative(frame.path), frame.line) for frame in failure.frames]
    on_line = frozenset(_WORD.findall(test.failing_line))
    reached = {item.name for item in definitions if _in_frames(item, places) >= 0} | test.names
    further = _reachable(definitions, reached)
    hints = frozenset(word for word in _words(failure.function) if len(word) > 2)

    def score(definition: Definition) -> float:
        depth = _in_frames(definition, places)
        value = 0.0
        if depth >= 0:
            value += IN_TRACEBACK + depth
        if definition.name in on_line:
            value += CALLED_ON_FAILING_LINE
        if definition.name in test.names or _is_constructor(definition, test.names):
            value += CALLED_BY_TEST
        if definition.name in further:
            value += CALLED_FURTHER / further[definition.name]
        if value:
            value += SHARES_NAME * len(hints & set(_words(definition.name)))
        if definition.kind == "assignment":
            value -= ASSIGNMENT_PENALTY
        return value

    scored = [(score(item), item) for item in definitions]
    some = [pair for pair in scored if pair[0] > -ASSIGNMENT_PENALTY and pair[0] != 0]
    ordered = sorted(some or scored, key=lambda pair: -pair[0])
    return tuple(item for _, item in ordered)


def _reachable(definitions: list[Definition], start: set[str] | frozenset[str]) -> dict[str, int]:
    """Names that the named definitions use, and how many uses away they are (from 1)."""
    reached: dict[str, int] = {}
    level = set(start)
    for distance in range(1, MAX_DISTANCE + 1):
        used = {name for item in definitions if item.name in level for name in item.calls}
        level = {name for name in used if name not in reached and name not in start}
        reached.update(dict.fromkeys(level, distance))
    return reached


def _in_frames(definition: Definition, places: list[tuple[str | None, int]]) -> int:
    """The depth of the innermost frame inside the definition, -1 where there is none."""
    inside = [
        depth
        for depth, (path, line) in enumerate(places)
        if path == definition.path and definition.start <= line <= definition.end
    ]
    return max(inside, default=-1)


def _is_constructor(definition: Definition, names: frozenset[str]) -> bool:
    scope = definition.qualified.split(".")[0]
    return definition.name in {"__init__", "__post_init__", "__new__"} and scope in names


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|\d+", name)]
