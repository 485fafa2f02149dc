"""Whether all words of a command are on a list of known flags."""

from __future__ import annotations

from collections.abc import Callable

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """`letters` may stand alone or in a cluster; `valued` letters take the rest of their word or
    the next one; `longs` stand alone or with `=value`; `long_values` may also take the next word.
    `numeric`: `-20` is a count. `max_operands` None: any number."""

    letters: str = ""
    valued: str = ""
    longs: frozenset[str] = frozenset()
    long_values: frozenset[str] = frozenset()
    numeric: bool = False
    max_operands: int | None = None
    operand: Callable[[str], bool] | None = None
    expands: bool = True


def accepts(flags: Flags, arguments: tuple[str, ...]) -> bool:
    """Whether all of a command's words after its name are on its list."""
    operands: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            operands += words
        elif word.startswith("--"):
            name, equals, _ = word.partition("=")
            if name in flags.long_values and not equals:
                next(words, None)
            elif name not in flags.longs and name not in flags.long_values:
                return False
        elif word.startswith("-") and len(word) > 1:
            if flags.numeric and word[1:].isdigit():
                continue
            taken = _cluster(flags, word[1:])
            if taken is None:
                return False
            if taken == "next":
                next(words, None)
        else:
            operands.append(word)
    if flags.max_operands is not None and len(operands) > flags.max_operands:
        return False
    return flags.operand is None or all(flags.operand(operand) for operand in operands)


def _cluster(flags: Flags, letters: str) -> str | None:
    for index, letter in enumerate(letters):
        if letter in flags.valued:
            return "here" if index + 1 < len(letters) else "next"
        if letter not in flags.letters:
            return None
    return "none"


def long_names(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())
