"""Which drafts are worth their step: those whose tokens come cheaper than one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcode.engine.speculation.acceptance import Acceptance
from qcode.engine.speculation.prompt_lookup import PromptLookup
from qcode.engine.speculation.step_cost import StepCost

DRAFT_SIZES = (1, 2, 3, 5, 7, 11, 15, 23, 31)
"""With the token before them these are few sizes of steps, so that each is soon measured."""

_MARGIN = 1.2
"""How many times its cost a draft must promise: what is known of both is never quite true."""

_OWN_MEMORY = 40.0
"""What one answer shows counts for itself alone after about that many predictions."""


class CopiedText:
    """The tokens of one request, and what they are being copied from."""

    def __init__(self, lookup: PromptLookup, common: Acceptance) -> None:
        """`common` is what all requests together show."""
        self._lookup = lookup
        self._common = common
        self._own = Acceptance(common.probability, memory=_OWN_MEMORY)

    def add(self, token: int) -> None:
        """Take note of a token of the answer."""
        matched = self._lookup.matched
        is_hit = self._lookup.add(token)
        if matched is not None and is_hit is not None:
            self._own.observe(matched, is_hit=is_hit)
            self._common.observe(matched, is_hit=is_hit)

    def propose(self, num_tokens: int) -> tuple[list[int], list[float]]:
        """At most that many tokens that may come next; how many of the first 1, 2, ... of them
        will be right."""
        matched = self._lookup.matched
        if matched is None or num_tokens < 1:
            return [], []
        tokens = self._lookup.continuation(num_tokens)
        return tokens, self._own.expected(matched, len(tokens))


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """A step as far as it is made up: the tokens it computes, and those that answers are expected
    to gain by it."""

    num_tokens: int
    num_gained: float


class Drafter:
    """Knows what steps cost and how far copies can be trusted, over all requests."""

    def __init__(self, cost: StepCost) -> None:
        self.cost = cost
        self._acceptance = Acceptance()

    def begin(self, tokens: Sequence[int], sources: Sequence[Sequence[int]] = ()) -> CopiedText:
        """`sources` are texts beside the prompt that its answer may repeat."""
        return CopiedText(PromptLookup(tokens, sources), self._acceptance)

    def draft(self, text: CopiedText, plan: StepPlan, limit: int) -> list[int]:
        """At most `limit` tokens to be checked in the planned step, which they are added to; none
        where they would not pay."""
        tokens, right = text.propose(min(limit, DRAFT_SIZES[-1]))
        before = self.cost.seconds(plan.num_tokens)
        best, best_rate = 0, plan.num_gained / before
        for size in DRAFT_SIZES:
            if size > len(tokens):
                break
            seconds = self.cost.seconds(plan.num_tokens + size)
            gain = right[size - 1] / plan.num_gained
            pays = gain >= _MARGIN * (seconds / before - 1.0)
            rate = (plan.num_gained + right[size - 1]) / seconds
            if pays and rate > best_rate:
                best, best_rate = size, rate
        if best:
            plan.num_tokens += best
            plan.num_gained += right[best - 1]
        return tokens[:best]
