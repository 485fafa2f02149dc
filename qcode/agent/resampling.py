"""A model that fails twice in the same way is likely to do so a third time: it is then sampled at
a higher temperature."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from qcode.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from qcode.agent.turn import TurnContext

ASSUMED_TEMPERATURE = 0.7  # where the model's own is used, which the agent does not know
STEP = 0.3
ATTEMPT_STEP = 0.1
HIGHEST = 1.3
_VARYING = re.compile(r"\d+(?:\.\d+)?|0x[0-9a-f]+", re.IGNORECASE)


class Resampling:
    """Remembers the failures of one turn."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._seen: set[str] = set()

    def after_failure(self, output: str, turn: TurnContext) -> bool:
        """Raises the temperature of the turn's next requests where the same failure came before.
        Numbers do not count: times, addresses and line numbers change with every run."""
        failure = _VARYING.sub("#", output)
        repeated = failure in self._seen
        self._seen.add(failure)
        if repeated and self._enabled:
            turn.sampling = hotter(turn.sampling)
        return repeated


def hotter(sampling: SamplingParams) -> SamplingParams:
    """Another seed too, where one is set: the same would lead the same way for a while."""
    temperature = ASSUMED_TEMPERATURE if sampling.temperature is None else sampling.temperature
    raised = max(temperature, min(HIGHEST, temperature + STEP))
    seed = None if sampling.seed is None else sampling.seed + 1
    return replace(sampling, temperature=round(raised, 3), seed=seed)


def attempt_sampling(temperature: float | None, seed: int | None, number: int) -> SamplingParams:
    """For the attempt of this number, from 1: the first as it was set, each further one a little
    hotter and, where a seed is set, with one of its own."""
    if number == 1:
        return SamplingParams(temperature=temperature, seed=seed)
    base = ASSUMED_TEMPERATURE if temperature is None else temperature
    hotter_by = min(ATTEMPT_STEP * (number - 1), STEP)
    raised = max(base, min(HIGHEST, base + hotter_by))
    return SamplingParams(
        temperature=round(raised, 3), seed=None if seed is None else seed + number - 1
    )
