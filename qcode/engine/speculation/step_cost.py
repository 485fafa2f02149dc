"""What a step costs by how many tokens it computes, as seen on this machine.

Reading the weights is most of the work of a few tokens, so the second costs little; how little
depends on the kernels, the machine and the network, and is measured while answers are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcode.engine.model_config import ExpertsConfig

_NEW_SHARE = 0.25
"""How much of what is known a new measurement replaces."""

_FORGOTTEN = 0.98
"""A measurement counts that much less with each later step of another size, until what was a bad
moment is tried again."""

_EXPERT_SHARE = 0.7
"""Of a step's work for one token, where the network has experts."""


@dataclass(slots=True)
class _Measured:
    seconds: float
    weight: float


class StepCost:
    """Seconds of a step of any number of tokens: measured, or judged by those of other sizes."""

    def __init__(self, growth: Callable[[int], float]) -> None:
        """`growth` guesses what a step of so many tokens costs, as a multiple of one token's."""
        self._growth = growth
        self._measured: dict[int, _Measured] = {}

    def observe(self, num_tokens: int, seconds: float) -> None:
        for size, other in self._measured.items():
            if size != num_tokens:
                other.weight *= _FORGOTTEN
        known = self._measured.get(num_tokens)
        if known is None:
            self._measured[num_tokens] = _Measured(seconds, 1.0)
            return
        # A step that another program held up says little about the next.
        seconds = min(seconds, 2.0 * known.seconds)
        known.seconds += _NEW_SHARE * (seconds - known.seconds)
        known.weight = min(known.weight + 1.0, 8.0)

    def seconds(self, num_tokens: int) -> float:
        """In units of one token's step as long as nothing is measured."""
        total = weights = 0.0
        for size, known in self._measured.items():
            nearness = 1.0 if size == num_tokens else 0.1 / (1 + abs(size - num_tokens))
            weight = known.weight * nearness
            total += weight * known.seconds * self._growth(num_tokens) / self._growth(size)
            weights += weight
        return total / weights if weights else self._growth(num_tokens)


def expected_growth(experts: ExpertsConfig | None) -> Callable[[int], float]:
    """A first guess: work beyond the weights that are read anyway, and, where the network has
    experts, those that the tokens do not share."""

    def dense(num_tokens: int) -> float:
        return 1.0 + 0.15 * (num_tokens - 1)

    if experts is None:
        return dense
    count, active = experts.num_experts, experts.num_experts_per_token

    def mixed(num_tokens: int) -> float:
        distinct = count * (1.0 - (1.0 - active / count) ** num_tokens) / active
        return (1 - _EXPERT_SHARE) * dense(num_tokens) + _EXPERT_SHARE * distinct

    return mixed
