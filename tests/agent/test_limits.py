"""What a turn has used, held against its limits."""

from __future__ import annotations

import pytest

from qcode.agent.limits import Budget, Prices, TurnLimits
from qcode.protocol.errors import LimitReached
from qcode.protocol.messages import Usage

PRICES = Prices(input=2.0, output=10.0)


def test_cost_is_priced_by_the_million() -> None:
    usage = Usage(input_tokens=500_000, output_tokens=100_000, cached_tokens=400_000)
    assert PRICES.cost(usage) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("limits", "used", "limit"),
    [
        (TurnLimits(max_tokens=100), Usage(input_tokens=60, output_tokens=40), "max_tokens"),
        (TurnLimits(max_tokens=101), Usage(input_tokens=60, output_tokens=40), None),
        (TurnLimits(max_cost=1.0, prices=PRICES), Usage(output_tokens=100_000), "max_cost"),
        (TurnLimits(max_cost=1.0, prices=PRICES), Usage(output_tokens=99_999), None),
        # A server that counts nothing must not make a limit mean nothing.
        (TurnLimits(max_tokens=100), Usage(), "max_tokens"),
        (TurnLimits(max_cost=1.0, prices=PRICES), Usage(), "max_cost"),
        (TurnLimits(), Usage(), None),
    ],
)
def test_the_step_after_a_limit_does_not_begin(
    limits: TurnLimits, used: Usage, limit: str | None
) -> None:
    budget = Budget(limits)
    budget.begin_step()
    budget.usage += used
    if limit is None:
        budget.begin_step()
        return
    with pytest.raises(LimitReached) as reached:
        budget.begin_step()
    assert reached.value.limit == limit
    assert budget.num_steps == 1
