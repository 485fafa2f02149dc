"""Reading the output of runners that are not Python's, by what they have in common: places
(`path:line`) and the lines around the word that says what went wrong."""

from __future__ import annotations

import re

from qcode.agent.repair.failure import Failure, Frame, TestReport, shorten
from qcode.agent.repair.python_output import read_traceback

_TAP = re.compile(r"^(?P<indent>\s*)not ok \d+ - (?P<name>.*?)(?: # .*)?$", re.MULTILINE)
_SPEC = re.compile(r"^\s*✖ (?P<name>.+?)(?: \([\d.]+ ?ms\))?$", re.MULTILINE)
_PLACE = re.compile(
    r"(?:(?P<function>[\w.<>$]+) \()?(?P<path>(?:file://)?[\w./\\@+-]*[\w+-]\.\w{1,5}):(?P<line>\d+)"
)
_NOISE = re.compile(
    r"node:internal|duration_ms|^\s*(?:type|stack|code|location|failureType|name|operator): "
    r"|^\s*(?:\.\.\.|---)$|generatedMessage|diff: "
)
_TELLING = re.compile(
    r"error|fail|expected|actual|assert|panicked|undefined|not |!==|!=|left|right|got|want"
    r"|^\s*[+-] |exception",
    re.IGNORECASE,
)


def parse_node(output: str) -> TestReport:
    """`node --test` in its two reporters, TAP and spec."""
    matches = [m for m in _TAP.finditer(output) if not _is_file_line(m["name"])]
    if not matches:
        listed = output.find("failing tests:")
        matches = list(_SPEC.finditer(output, max(listed, 0)))
        matches = [
            m for m in matches if not _is_file_line(m["name"]) and m["name"] != "failing tests:"
        ]
    failures = []
    for number, match in enumerate(matches):
        stop = matches[number + 1].start() if number + 1 < len(matches) else len(output)
        stop = _tap_end(output, match.end(), stop)
        failures.append(_generic_failure(match["name"], output[match.end() : stop]))
    return TestReport(
        failures=tuple(failures), failing=frozenset(failure.test for failure in failures)
    )


def _tap_end(output: str, start: int, stop: int) -> int:
    end = re.compile(r"^\s*\.\.\.$|^# Subtest|^\s*ok \d", re.MULTILINE).search(output, start, stop)
    return end.start() if end else stop


def _is_file_line(name: str) -> bool:
    return bool(re.search(r"\.(?:m|c)?[jt]sx?$", name.strip()))


def parse_generic(output: str) -> TestReport:
    """One failure made of the telling lines of any output; none where it says nothing."""
    if "Traceback (most recent call last)" in output:
        start = output.rindex("Traceback (most recent call last)")
        frames, text, exception = read_traceback(output[start:])
        failure = Failure(test="", function="", text=text, exception=exception, frames=frames)
        return TestReport(failures=(failure,), failing=frozenset())
    if not output.strip():
        return TestReport(failures=(), failing=frozenset())
    return TestReport(failures=(_generic_failure("", output),), failing=frozenset())


def _generic_failure(name: str, body: str) -> Failure:
    lines = [line for line in body.splitlines() if line.strip() and not _NOISE.search(line)]
    telling = [line for line in lines if _TELLING.search(line) or _PLACE.search(line)]
    frames = [
        Frame(path=m["path"], line=int(m["line"]), function=(m["function"] or "").split(".")[-1])
        for line in body.splitlines()
        if "node:internal" not in line and "location:" not in line
        for m in _PLACE.finditer(line)
    ]
    frames.reverse()  # these runners print the innermost frame first
    error = re.search(r"\b(\w*(?:Error|Exception)|panicked)\b", body)
    return Failure(
        test=name,
        function=name,
        text=shorten([name, *(telling or lines)]),
        exception=error[1] if error else "",
        frames=tuple(frames),
    )
