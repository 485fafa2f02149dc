"""Reading the output of pytest and of unittest."""

from __future__ import annotations

import re

from qcode.agent.repair.failure import Failure, Frame, TestReport, shorten

_SECTION = re.compile(r"^_{3,} (?P<name>\S.*?) _{3,}$", re.MULTILINE)
_SECTIONS_END = re.compile(r"^={3,} (?!FAILURES|ERRORS).*={3,}$|^-{3,}.*Captured", re.MULTILINE)
_LOCATION = re.compile(
    r"^(?P<path>[^\s:][^:\n]*\.py):(?P<line>\d+):(?: in (?P<function>[\w<>]+)| (?P<error>\w+))?"
    r"(?P<rest>.*)$"
)
_SUMMARY = re.compile(r"^(?:FAILED|ERROR) (?P<test>.+?)(?: - .*)?$", re.MULTILINE)
_TRACEBACK = re.compile(r'^\s*File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
_UNITTEST = re.compile(
    r"^(?:FAIL|ERROR): (?P<function>\S+)(?: \((?P<scope>[^)\s]*)\))?(?P<detail>[^\n]*)$",
    re.MULTILINE,
)
_RULE = re.compile(r"^(?:={70}|-{70})$", re.MULTILINE)
_HEADING = "=" * 70


def parse_pytest(output: str) -> TestReport:
    """Both traceback styles (`long` and `short`) of pytest's report."""
    by_id = tuple(match["test"].strip() for match in _SUMMARY.finditer(output))
    sections = list(_SECTION.finditer(output))
    failures = []
    for number, section in enumerate(sections):
        stop = sections[number + 1].start() if number + 1 < len(sections) else len(output)
        end = _SECTIONS_END.search(output, section.end(), stop)
        body = output[section.end() : end.start() if end else stop]
        failures.append(_pytest_failure(section["name"], body, by_id))
    return TestReport(
        failures=tuple(failures),
        failing=frozenset(by_id) or frozenset(failure.test for failure in failures),
    )


def _pytest_failure(name: str, body: str, by_id: tuple[str, ...]) -> Failure:
    lines: list[str] = []
    frames: list[Frame] = []
    exception = ""
    for line in body.splitlines():
        location = _LOCATION.match(line)
        if location:
            frames.append(
                Frame(
                    path=location["path"],
                    line=int(location["line"]),
                    function=location["function"] or "",
                )
            )
            lines.append(line)
        elif line.startswith("E ") or line == "E":
            text = line[1:].strip()
            exception = exception or _exception_name(text)
            lines.append(line)
        elif line.startswith(("> ", ">\t")):
            lines.append(line)
        elif line.startswith("    ") and lines and _LOCATION.match(lines[-1]):
            lines.append(line)  # the source line below a location, in the short style
    qualified = name.removeprefix("ERROR collecting ").removeprefix("ERROR at setup of ")
    function = re.sub(r"\[.*", "", qualified).rsplit(".", 1)[-1]
    if name.startswith("ERROR collecting"):
        function = ""
    return Failure(
        test=_pytest_id(qualified, by_id),
        function=function,
        text=shorten(lines),
        exception=exception,
        frames=tuple(frames),
    )


def _pytest_id(qualified: str, by_id: tuple[str, ...]) -> str:
    name, bracket, parameters = qualified.partition("[")
    wanted = name.replace(".", "::") + bracket + parameters
    for test in by_id:
        if test == qualified or test.endswith(("::" + wanted, "::" + qualified)):
            return test
    return qualified


def parse_unittest(output: str) -> TestReport:
    headers = [
        match
        for match in _UNITTEST.finditer(output)
        # Only a little of what is before: reports of whole suites are long.
        if output[max(0, match.start() - 80) : match.start()].rstrip("\n").endswith(_HEADING)
    ]
    failures = []
    for number, header in enumerate(headers):
        stop = headers[number + 1].start() if number + 1 < len(headers) else len(output)
        body = output[header.end() : stop]
        rules = list(_RULE.finditer(body))
        if rules:
            end = rules[1].start() if len(rules) > 1 else len(body)
            body = body[rules[0].end() : end]
        failures.append(_unittest_failure(header, body))
    return TestReport(
        failures=tuple(failures), failing=frozenset(failure.test for failure in failures)
    )


def _unittest_failure(header: re.Match[str], body: str) -> Failure:
    function, scope = header["function"], header["scope"] or ""
    if scope and not scope.endswith("." + function) and not scope.startswith("unittest.loader"):
        scope = f"{scope}.{function}"  # before Python 3.11 the class alone was printed
    loader = "unittest.loader" in scope
    frames, text, exception = read_traceback(body)
    return Failure(
        test=function if loader else scope or function,
        function="" if loader else function,
        text=text,
        exception=exception,
        frames=frames,
    )


def read_traceback(body: str) -> tuple[tuple[Frame, ...], str, str]:
    """Frames, essential text and exception name of a Python traceback. Frames of the standard
    library are left out of the text, since they explain nothing about the project."""
    frames: list[Frame] = []
    lines: list[str] = []
    exception = ""
    foreign = False
    for line in body.splitlines():
        located = _TRACEBACK.match(line)
        if located:
            foreign = "/lib/python" in located["path"] or "<frozen" in located["path"]
            if not foreign:
                frames.append(
                    Frame(
                        path=located["path"],
                        line=int(located["line"]),
                        function=located["function"] or "",
                    )
                )
                lines.append(f"line {located['line']}, in {located['function'] or 'module'}")
        elif line.startswith("Traceback") or not line.strip(" ~^"):
            continue
        elif line.startswith(" "):
            if not foreign:
                lines.append(line)
        else:
            lines.append(line)
            if not exception:
                exception = _exception_name(line)
    return tuple(frames), shorten(lines), exception


def _exception_name(text: str) -> str:
    if text.startswith("assert "):
        return "AssertionError"
    match = re.match(r"(?:\w+\.)*([A-Z]\w*)(?::|$)", text)
    return match[1] if match else ""
