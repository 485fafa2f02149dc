"""How far a copy can be trusted, by how long it has been right.

Every token of an answer for which a source predicts something is counted, whether a draft was
made of it or not: so what is known costs no step, and a text that copies nothing shows it before
a draft has been paid for.
"""

from __future__ import annotations

from collections.abc import Callable

_EDGES = (0, 1, 4, 6, 9, 13, 25, 64)
"""Matches from this length to the next are counted together."""

_FIRST_GUESS = (0.1, 0.6, 0.65, 0.85, 0.9, 0.94, 0.98, 0.99)
"""As copies of code by models of this family went."""


class Acceptance:
    """Shares of right predictions, recent ones counting most."""

    def __init__(
        self,
        prior: Callable[[int], float] | None = None,
        *,
        memory: float = 500.0,
        prior_weight: float = 8.0,
    ) -> None:
        """About `memory` predictions are remembered for each length; `prior`, by the length of a
        match, counts as much as `prior_weight` of them."""
        self._prior = prior or _first_guess
        self._kept = 1.0 - 1.0 / memory
        self._prior_weight = prior_weight
        self._hits = [0.0] * len(_EDGES)
        self._all = [0.0] * len(_EDGES)

    def observe(self, matched: int, *, is_hit: bool) -> None:
        place = _place(matched)
        self._hits[place] = self._hits[place] * self._kept + is_hit
        self._all[place] = self._all[place] * self._kept + 1.0

    def probability(self, matched: int) -> float:
        """That the token after a match of this length is the source's."""
        place, weight = _place(matched), self._prior_weight
        prior = self._prior(matched)
        return (self._hits[place] + weight * prior) / (self._all[place] + weight)

    def expected(self, matched: int, num_tokens: int) -> list[float]:
        """For drafts of 1, 2, ... `num_tokens` tokens: how many of them will be right."""
        sums, chance, total = [], 1.0, 0.0
        for offset in range(num_tokens):
            chance *= self.probability(matched + offset)
            total += chance
            sums.append(total)
        return sums


def _place(matched: int) -> int:
    place = len(_EDGES) - 1
    while _EDGES[place] > matched:
        place -= 1
    return place


def _first_guess(matched: int) -> float:
    return _FIRST_GUESS[_place(matched)]
