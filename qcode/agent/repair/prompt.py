"""The one prompt that all candidates of a failure share: facts first, source last."""

from __future__ import annotations

from qcode.agent.repair.definitions import Definition
from qcode.agent.repair.failure import Failure, shorten
from qcode.agent.repair.project_files import language_of
from qcode.agent.repair.sources import Suspects
from qcode.protocol.values import dataclass

# Characters, as nothing here knows the model's tokenizer; code has about 3.3 to a token, so the
# whole stays near 600 tokens. A slow machine reads 50 tokens in a second.
MAX_PROMPT = 2100
MAX_TEST = 600
MIN_SOURCE = 1000
MAX_SHOWN = 6  # definitions

SYSTEM = "You are an expert programmer who repairs bugs."


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPrompt:
    """`shown` are the suspects whose whole text is in the prompt, most suspicious first; `lines`
    are the (number, text) pairs of each file that the prompt shows."""

    text: str
    shown: tuple[Definition, ...]
    lines: dict[str, tuple[tuple[int, str], ...]]


def build_prompt(failure: Failure, suspects: Suspects) -> RepairPrompt:
    what = failure.text
    test = _clip(suspects.test.source, MAX_TEST)
    room = max(MAX_PROMPT - len(what) - len(test), MIN_SOURCE)
    lines = visible_lines(suspects, room)
    shown = tuple(item for item in suspects.ranked if _is_visible(item, lines))[:MAX_SHOWN]
    parts = ["This test fails:"]
    if test:
        parts += [f"```{language_of(suspects.test.path or '')}\n{test}\n```"]
    parts += [f"```\n{what}\n```"]
    for path in reversed(lines):  # the most suspicious file comes last
        parts += [f"{path}:\n```{language_of(path)}\n{_excerpt(lines[path])}\n```"]
    return RepairPrompt(text="\n".join(parts), shown=shown, lines=lines)


def visible_lines(suspects: Suspects, room: int) -> dict[str, tuple[tuple[int, str], ...]]:
    """Whole files while they fit, in order of suspicion; of a larger file its beginning and its
    suspects."""
    by_rank = dict.fromkeys(item.path for item in suspects.ranked)
    order = list(by_rank) or list(suspects.files)
    visible: dict[str, tuple[tuple[int, str], ...]] = {}
    for path in order:
        text = suspects.files[path]
        numbered = tuple(enumerate(text.splitlines(), start=1))
        if len(text) > room:
            wanted = [item for item in suspects.ranked if item.path == path]
            numbered = _parts(numbered, wanted, room)
        size = sum(len(line) + 1 for _, line in numbered)
        if not numbered or (visible and size > room):
            continue
        if any(line.strip() for _, line in numbered):
            visible[path] = numbered
            room -= size
    return visible


def _parts(
    numbered: tuple[tuple[int, str], ...], wanted: list[Definition], room: int
) -> tuple[tuple[int, str], ...]:
    """The suspects that fit, the first one always (cut where it is longer than all the room)."""
    keep: set[int] = set()
    for item in wanted:
        if len(item.text) + 1 > room and keep:
            continue
        lines = range(item.start, item.end + 1)
        for number in lines:
            if room <= 0:
                break
            if number not in keep:
                room -= len(numbered[number - 1][1]) + 1
                keep.add(number)
    return tuple(pair for pair in numbered if pair[0] in keep)


def _excerpt(numbered: tuple[tuple[int, str], ...]) -> str:
    lines: list[str] = []
    previous = 0
    for number, line in numbered:
        if number != previous + 1:
            lines.append("...")
        lines.append(line)
        previous = number
    return "\n".join(lines).strip("\n")


def _is_visible(item: Definition, lines: dict[str, tuple[tuple[int, str], ...]]) -> bool:
    numbers = {number for number, _ in lines.get(item.path, ())}
    return numbers.issuperset(range(item.start, item.end + 1))


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else shorten(text.splitlines(), limit)
