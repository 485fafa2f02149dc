"""Test runners: how a project's tests are started, all of them or one, and how their output is
read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Literal

from qcode.agent.repair.failure import TestReport, plain
from qcode.agent.repair.other_output import parse_generic, parse_node
from qcode.agent.repair.python_output import parse_pytest, parse_unittest
from qcode.protocol.values import dataclass

Kind = Literal["pytest", "unittest", "node", "other"]

# Short tracebacks carry the same facts in a quarter of the text. Without the cache provider and
# bytecode files a run leaves nothing in the project.
PYTEST_OPTIONS = "-q --tb=short -p no:cacheprovider"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRunner:
    """`suite` is the command line of all tests. `selects` says that a test's name may be added
    to it; a command that a person wrote is run as it stands."""

    __test__ = False  # not a test class, whatever its name begins with

    kind: Kind
    suite: str
    selects: bool = False

    def only(self, test: str) -> str:
        """The command line that runs one test, by the identifier of a report; the whole suite
        where the runner cannot choose."""
        if not self.selects or not test:
            return self.suite
        if self.kind == "pytest":
            return f"{self.suite} {shlex.quote(test)}"
        if self.kind == "unittest":
            return f"{self.suite} -k {shlex.quote('.'.join(test.split('.')[-2:]))}"
        return self.suite

    def named(self, test: str, paths: Iterable[str]) -> str:
        """The command line for a test as a person names it: a file (its directory may be left
        out), `file::test`, or the name of a test function."""
        file, _, inside = test.partition("::")
        path = next((item for item in paths if f"/{item}".endswith(f"/{file}")), None)
        if not self.selects:
            return self.suite
        if self.kind == "pytest":
            if path is None:
                return f"{self.suite} -k {shlex.quote(file)}"
            return f"{self.suite} {shlex.quote(f'{path}::{inside}' if inside else path)}"
        if self.kind == "unittest":
            stem = file.rpartition("/")[2].removesuffix(".py")
            name = inside.replace("::", ".") if inside else stem
            return f"{self.suite} -k {shlex.quote(name)}"
        return self.suite

    def report(self, output: str) -> TestReport:
        """What a failed run printed. Falls back to the output's telling lines."""
        text = plain(output)
        parsers = {"pytest": parse_pytest, "unittest": parse_unittest, "node": parse_node}
        parser = parsers.get(self.kind)
        report = parser(text) if parser else None
        if report is None or not report.failures:
            generic = parse_generic(text)
            return generic if report is None or not report.failing else report
        return report


def runner_of(command: str) -> TestRunner:
    """The runner behind a command that a person wrote; tests may be selected where the command
    names none itself."""
    words = _words(command)
    for index, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        rest = words[index + 1 :]
        if name in {"pytest", "py.test"}:
            return TestRunner(kind="pytest", suite=command, selects=_only_options(rest))
        if name == "unittest" and index and words[index - 1] == "-m":
            return TestRunner(
                kind="unittest",
                suite=command,
                selects=_only_options(rest) or rest[:1] == ["discover"],
            )
        if name in {"node", "npm", "yarn", "pnpm", "bun", "deno"}:
            return TestRunner(kind="node", suite=command)
    return TestRunner(kind="other", suite=command)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _only_options(words: list[str]) -> bool:
    return all(re.fullmatch(r"-[\w-]+(?:=.*)?", word) for word in words)
