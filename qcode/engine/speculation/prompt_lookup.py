"""What a growing text is being copied from: the places in it that continue as it does now.

Prompt lookup (Saxena 2023; LLMA, Yang et al. 2023, "Inference with reference"): an answer that
repeats a passage of its prompt, a file that is written again with one change, tells its next
tokens by what followed the last ones where they stood before.

Every occurrence of three tokens in a row is indexed. While the text goes on as its source does,
the place moves along; where they part, another place is looked up, or the same one is kept for one
more token, which may have taken the place of the source's. All of that takes constant time for
each token of the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

INDEXED_TOKENS = 3
_TOKEN_BITS = 21
"""Vocabularies are far smaller than 2 ** 21: a key stands for exactly one sequence of tokens."""

MAX_CANDIDATES = 8
"""How many earlier places with the same last tokens are compared, the latest first."""

MAX_MATCHED = 64
"""A longer match is not told from this one."""

SETTLED_MATCH = 16
"""After so long a match no other place is looked for."""

_NONE = -1
_BREAK = -1
"""Between texts; no token has this id."""


class PromptLookup:
    """The text is `sources` and then what `add` is given, of which `tokens` are the beginning.
    What stands in a source is never copied beyond its end."""

    def __init__(self, tokens: Iterable[int], sources: Sequence[Sequence[int]] = ()) -> None:
        self._text = array("i")
        self._latest: dict[int, int] = {}
        """Of the last three tokens: the position after their latest occurrence."""
        self._earlier = array("i")
        """For each position: the previous one with the same three tokens before it."""
        self._key = 0
        self._run = 0
        """How many tokens there are since the last break."""
        self._at = _NONE
        self._matched = 0
        for source in sources:
            self._extend(source)
            self._break()
        self._extend(tokens)
        self._look_up()

    @property
    def matched(self) -> int | None:
        """How many tokens before this place are those before its source, at most `MAX_MATCHED`: 0
        just after they differed. None where nothing is being copied."""
        return None if self._predicted() < 0 else self._matched

    def add(self, token: int) -> bool | None:
        """The next token of the text -> whether it was predicted, None without a prediction."""
        predicted = self._predicted()
        is_hit = predicted == token
        was_matched = self._matched > 0
        self._append(token)
        if is_hit:
            self._at += 1
            self._matched = min(self._matched + 1, MAX_MATCHED)
            if self._matched < SETTLED_MATCH:
                self._look_up()
        else:
            kept = self._at + 1 if predicted >= 0 and was_matched else _NONE
            self._at, self._matched = kept, 0
            self._look_up()
        return is_hit if predicted >= 0 else None

    def continuation(self, num_tokens: int) -> list[int]:
        """At most that many tokens as the source goes on: round and round where the text repeats
        itself without end."""
        if self._at == _NONE:
            return []
        found = self._text[self._at : self._at + num_tokens].tolist()
        if _BREAK in found:
            return found[: found.index(_BREAK)]
        period = len(self._text) - self._at
        while period and len(found) < num_tokens:
            found.append(found[-period])
        return found

    def _predicted(self) -> int:
        return self._text[self._at] if 0 <= self._at < len(self._text) else _BREAK

    def _extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._append(token)

    def _append(self, token: int) -> None:
        self._text.append(token)
        self._earlier.append(_NONE)
        self._key = (self._key << _TOKEN_BITS | token) & (1 << INDEXED_TOKENS * _TOKEN_BITS) - 1
        self._run += 1
        if self._run >= INDEXED_TOKENS:
            end = len(self._text)
            self._earlier[end - 1] = self._latest.get(self._key, _NONE)
            self._latest[self._key] = end

    def _break(self) -> None:
        self._text.append(_BREAK)
        self._earlier.append(_NONE)
        self._run = 0

    def _look_up(self) -> None:
        """Move to the place with the longest match, the latest of several, if one has a longer
        match than the place now."""
        if self._run < INDEXED_TOKENS:
            return
        place = self._earlier[len(self._text) - 1]
        for _ in range(MAX_CANDIDATES):
            if place == _NONE:
                return
            matched = self._common_suffix(place)
            if matched > self._matched:
                self._at, self._matched = place, matched
            if matched >= SETTLED_MATCH:
                return
            place = self._earlier[place - 1]

    def _common_suffix(self, place: int) -> int:
        """How many tokens before `place` equal those at the end of the text."""
        text, end = self._text, len(self._text)
        longest = min(place, self._run, SETTLED_MATCH)
        length = INDEXED_TOKENS
        while length < longest and text[place - length - 1] == text[end - length - 1]:
            length += 1
        return length
