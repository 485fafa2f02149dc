"""The scripted work: a project, a prompt, and what the model answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client.server import Answer

CALC = '"""Sums."""\n\n\ndef add(left: int, right: int) -> int:\n    return left - right\n'
TEST = "from calc import add\n\n\ndef test_add() -> None:\n    assert add(2, 3) == 5\n"
# Speaks of no failing test: else qcode would run it before it asks the model.
PROMPT = "Let add in calc.py give the sum of its arguments, then run the tests."
ANSWER = ("The", " sign", " was", " wrong", ";", " the", " test", " passes", " now", ".")
READ = ("read_file", {"file_path": "calc.py"})
EDIT = (
    "edit",
    {"file_path": "calc.py", "old_string": "left - right", "new_string": "left + right"},
)
# Plugins that happen to be installed would be timed with their start.
PYTEST = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python3 -m pytest -q -p no:cacheprovider"
RUN_TEST = ("run_shell_command", {"command": PYTEST})

NUM_READS = 200
LINES_A_FILE = 200
NUM_TOKENS = 50_000
_WORDS = "the node tree value index of a list is read from each file and kept in order by its key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`prepare` fills an empty project; `done` says whether the work was done in it."""

    name: str
    prompt: str
    answers: Sequence[Answer]
    prepare: Callable[[Path], None]
    done: Callable[[Path], bool]


def repair() -> Scenario:
    """Fix one failing test: read, edit, run it, say so."""
    return Scenario(
        name="repair", prompt=PROMPT, answers=_repair(), prepare=_broken, done=_is_fixed
    )


def long_session(num_reads: int = NUM_READS) -> Scenario:
    """Reads of many files, each another one, then the same repair."""

    def prepare(project: Path) -> None:
        _broken(project)
        for number in range(num_reads):
            (project / f"part_{number}.py").write_text(_module(number))

    reads = [
        Answer(calls=[("read_file", {"file_path": f"part_{number}.py"})])
        for number in range(num_reads)
    ]
    return Scenario(
        name="session",
        prompt=PROMPT,
        answers=[*reads, *_repair()],
        prepare=prepare,
        done=_is_fixed,
    )


def long_answer(num_tokens: int = NUM_TOKENS) -> Scenario:
    """One text, a token an event."""
    return Scenario(
        name="answer",
        prompt="Explain how this program works, at length.",
        answers=[Answer(pieces=_prose(num_tokens))],
        prepare=_broken,
        done=lambda project: True,
    )


def _repair() -> list[Answer]:
    calls = [Answer(calls=[call]) for call in (READ, EDIT, RUN_TEST)]
    return [*calls, Answer(pieces=ANSWER)]


def _broken(project: Path) -> None:
    (project / "calc.py").write_text(CALC)
    (project / "test_calc.py").write_text(TEST)


def _is_fixed(project: Path) -> bool:
    return (project / "calc.py").read_text() == CALC.replace("left - right", "left + right")


def _module(number: int) -> str:
    lines = [f"value_{line} = {number} + {line}  # part {number}" for line in range(LINES_A_FILE)]
    return "\n".join(lines) + "\n"


def _prose(num_tokens: int) -> list[str]:
    """Words in no order that repeats: an endless repetition would be cut off."""
    chance = random.Random(0)
    words = [f" {word}" for word in _WORDS.split()] + [".", "\n"]
    return chance.choices(words, k=num_tokens)
