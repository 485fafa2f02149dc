"""What one turn may use before it is stopped."""

from __future__ import annotations

import time
from dataclasses import field

from qcode.protocol.errors import LimitReached
from qcode.protocol.messages import Usage
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a million tokens cost. Cached input counts in full: few servers say what they ask for
    it, and a limit on cost must rather stop early than late."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, usage: Usage) -> float:
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """None means no limit. `max_turns` counts model requests of one turn (the flag `--max-turns`
    of programs of this kind means steps); `max_tokens` counts input and output tokens; `max_cost`
    is held against `prices`."""

    max_turns: int | None = None
    max_wall_time_s: float | None = None
    max_tool_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    prices: Prices = field(default_factory=Prices)


class Budget:
    """What a turn has used so far, held against its limits."""

    def __init__(self, limits: TurnLimits) -> None:
        self.limits = limits
        self.usage = Usage()
        self.num_steps = 0
        self.num_tool_calls = 0
        self._started = time.monotonic()

    def begin_step(self) -> None:
        """Counts one model request. Raises `LimitReached` instead where a limit is used up."""
        limits = self.limits
        if limits.max_turns is not None and self.num_steps >= limits.max_turns:
            raise reached("max_turns", f"{limits.max_turns} model requests")
        self._check_tokens()
        if self.remaining_s() == 0:
            raise self.out_of_time()
        self.num_steps += 1

    def _check_tokens(self) -> None:
        limits, usage = self.limits, self.usage
        used = usage.input_tokens + usage.output_tokens
        if limits.max_tokens is not None and used >= limits.max_tokens:
            raise reached("max_tokens", f"{limits.max_tokens} tokens (used {used})")
        cost = limits.prices.cost(usage)
        if limits.max_cost is not None and cost >= limits.max_cost:
            raise reached("max_cost", f"cost {limits.max_cost:g} (spent {cost:.4f})")
        counted = limits.max_tokens is not None or limits.max_cost is not None
        if counted and self.num_steps and not used:
            raise LimitReached(
                "The endpoint does not say how many tokens it used, so no limit on them can hold.",
                hint="Limit max_turns or max_wall_time instead.",
                limit="max_tokens" if limits.max_tokens is not None else "max_cost",
            )

    def begin_tool_call(self) -> None:
        """Counts one tool call. Raises `LimitReached` instead where the limit is used up."""
        limit = self.limits.max_tool_calls
        if limit is not None and self.num_tool_calls >= limit:
            raise reached("max_tool_calls", f"{limit} tool calls")
        self.num_tool_calls += 1

    def remaining_tool_calls(self) -> int | None:
        """None without a limit."""
        limit = self.limits.max_tool_calls
        return None if limit is None else max(0, limit - self.num_tool_calls)

    def remaining_s(self) -> float | None:
        """Seconds of wall time left, never negative; None without a limit."""
        if self.limits.max_wall_time_s is None:
            return None
        return max(0.0, self.limits.max_wall_time_s - (time.monotonic() - self._started))

    def out_of_time(self) -> LimitReached:
        return reached("max_wall_time", f"{self.limits.max_wall_time_s:g} seconds")


def reached(limit: str, amount: str) -> LimitReached:
    return LimitReached(
        f"Stopped at the limit of {amount}.",
        hint=f"Raise {limit} to let it go on; the session keeps the work so far.",
        limit=limit,
    )
