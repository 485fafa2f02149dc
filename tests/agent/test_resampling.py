"""The same failure again raises the temperature; another one does not."""

from __future__ import annotations

import pytest
from loop_parts import Bench, play, says

from qcode.agent.resampling import HIGHEST, hotter
from qcode.agent.verification import VerifyCommand
from qcode.protocol.sampling import SamplingParams

pytestmark = pytest.mark.anyio


async def temperatures(verify: VerifyCommand, codes: list[int]) -> list[float | None]:
    bench = Bench(*[says("done")] * len(codes), verify=verify)
    left = list(codes)
    bench.shell.exit_code = lambda: left.pop(0)
    await play(bench.agent, "go")
    again = next_temperature(bench)
    assert again is None
    return [request.sampling.temperature for request in bench.model.requests]


def next_temperature(bench: Bench) -> float | None:
    """The next turn begins as it was set."""
    return bench.agent._context(lambda event: None).sampling.temperature


async def test_the_second_time_is_sampled_hotter() -> None:
    seen = await temperatures(VerifyCommand(command="t"), [1, 1, 1, 0])
    assert seen == [None, None, 1.0, 1.3]


async def test_it_can_be_switched_off() -> None:
    seen = await temperatures(VerifyCommand(command="t", resample=False), [1, 1, 1, 0])
    assert seen == [None] * 4


def test_the_temperature_has_a_limit_and_is_never_lowered() -> None:
    assert hotter(SamplingParams(temperature=0.0, seed=3)) == SamplingParams(
        temperature=0.3, seed=4
    )
    assert hotter(SamplingParams(temperature=1.2)).temperature == HIGHEST
    assert hotter(SamplingParams(temperature=1.8)).temperature == 1.8
