"""Is a prompt about something that fails and must pass, and what is it?"""

from __future__ import annotations

import re

from qcode.protocol.values import dataclass

_FIXING = re.compile(
    r"\b(?:fix|repair|mend|correct|debug|solve|resolve|get .{0,40}\b(?:pass|green|work)"
    r"|make .{0,80}?\b(?:pass|passes|green|succeed|work|build|compile))(?:es|ed|ing)?\b",
    re.IGNORECASE | re.DOTALL,
)
_FAILING = re.compile(
    r"\b(?:tests?|suite|specs?|build|checks?|ci|bugs?|errors?|failures?|crash(?:es)?|exception"
    r"|traceback|failing|fails?|failed|broken|pytest|unittest)\b|\btest_\w+|::",
    re.IGNORECASE,
)
# Work that a failing test may be mentioned in, but that is not repairing.
_OTHER_WORK = re.compile(
    r"^\W*(?:please\s+)?(?:explain|describe|why|what|how|write|add|create|implement|refactor"
    r"|rename|document|review|summari[sz]e|list|show)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(
    r"^(?:\S*/)?(?:pytest|py\.test|python[\d.]*|node|npm|npx|yarn|pnpm|bun|deno|make|cargo|go|tox"
    r"|nox|uv|poetry|hatch|pdm|ctest|gradle|mvn|dotnet|phpunit|rspec|bundle|rake|bash|sh)(?:\s|$)"
    r"|^\./\S+"
)
_BARE_COMMAND = re.compile(
    r"\bmake\s+(?:the\s+)?((?:pytest|python3?|npm|node|cargo|go|make)(?:\s+[\w./:=-]+)*?)"
    r"\s+(?:pass|succeed|green)",
    re.IGNORECASE,
)
_TEST_ID = re.compile(r"[\w./-]+\.(?:py|m?js|ts|go|rs)(?:::[\w\[\].:-]+)?")
_TEST_NAME = re.compile(r"\btest_\w+\b")
_TEST_EDITS = re.compile(
    r"\b(?:fix|change|update|correct|adapt|edit)\s+the\s+"
    r"(?:expectations?|assertions?|test itself)\b"
    r"|\bthe tests? (?:is|are) (?:wrong|outdated|incorrect)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairGoal:
    """`command` is what must succeed, where the person named it; `test` a test file, identifier
    or name in the words of the prompt. `edits_tests`: the tests themselves may be changed."""

    command: str | None = None
    test: str | None = None
    edits_tests: bool = False


def find_goal(prompt: str, *, verify: str | None = None) -> RepairGoal | None:
    """None where the prompt does not ask for a repair. `verify` is the command that the person
    wants to succeed at the end, whatever the prompt says; the prompt's own command comes first."""
    if _OTHER_WORK.search(prompt) or not _FIXING.search(prompt):
        return None
    command = _named_command(prompt)
    if not (command or verify or _FAILING.search(prompt)):
        return None
    return RepairGoal(
        command=command or verify,
        test=None if command else _named_test(prompt),
        edits_tests=bool(_TEST_EDITS.search(prompt)),
    )


def _named_command(prompt: str) -> str | None:
    for quoted in _QUOTED.findall(prompt):
        if _COMMAND.match(quoted.strip()):
            return str(quoted.strip())
    bare = _BARE_COMMAND.search(prompt)
    return bare[1] if bare else None


def _named_test(prompt: str) -> str | None:
    for found in _TEST_ID.findall(prompt):
        if "test" in found or "spec" in found:
            return str(found)
    name = _TEST_NAME.search(prompt)
    return name.group() if name else None
