"""The text of a prompt, with what may be a special token told from what may not."""

from __future__ import annotations

from typing import NamedTuple


class PromptPiece(NamedTuple):
    """A run of prompt text. In `trusted` text special tokens are tokens; elsewhere they are the
    characters that spell them, so that a file holding `<|im_end|>` cannot end a turn.

    Pieces join to one text: ordinary text merges across a border as if there were none.
    """

    text: str
    trusted: bool


class PromptBuilder:
    """Collects pieces; neighbours of the same trust become one."""

    def __init__(self) -> None:
        self._runs: list[tuple[list[str], bool]] = []

    def _add(self, text: str, trusted: bool) -> None:
        if not text:
            return
        if self._runs and self._runs[-1][1] is trusted:
            self._runs[-1][0].append(text)
        else:
            self._runs.append(([text], trusted))

    def markup(self, text: str) -> None:
        self._add(text, True)

    def content(self, text: str) -> None:
        self._add(text, False)

    def pieces(self) -> tuple[PromptPiece, ...]:
        return tuple(PromptPiece("".join(parts), trusted) for parts, trusted in self._runs)
