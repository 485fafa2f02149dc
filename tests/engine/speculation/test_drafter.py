"""Drafts are as long as what is known of costs and copies makes them worth, and not longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qcode.engine.model_config import ExpertsConfig
from qcode.engine.speculation.acceptance import Acceptance
from qcode.engine.speculation.drafter import DRAFT_SIZES, CopiedText, Drafter, StepPlan
from qcode.engine.speculation.step_cost import StepCost, expected_growth

FILE = list(range(1000, 1400))


def drafter_of(growth: Callable[[int], float]) -> Drafter:
    return Drafter(StepCost(growth))


def copying(drafter: Drafter, num_tokens: int) -> CopiedText:
    """An answer that has copied this many tokens of its prompt."""
    text = drafter.begin([*FILE, 1, 2, 3])
    for token in FILE[:num_tokens]:
        text.add(token)
    return text


def draft(drafter: Drafter, text: CopiedText, limit: int = 100) -> list[int]:
    return drafter.draft(text, StepPlan(num_tokens=1, num_gained=1), limit)


def test_a_long_copy_is_drafted_far_ahead_and_within_the_limit() -> None:
    drafter = drafter_of(lambda num_tokens: 1 + 0.05 * (num_tokens - 1))
    text = copying(drafter, 200)

    assert draft(drafter, text) == FILE[200 : 200 + DRAFT_SIZES[-1]]
    assert draft(drafter, text, limit=2) == FILE[200:202]
    assert draft(drafter, text, limit=0) == []
    assert draft(drafter, text, limit=-3) == []


def test_where_every_token_costs_a_step_nothing_is_drafted() -> None:
    drafter = drafter_of(float)

    assert draft(drafter, copying(drafter, 200)) == []


def test_experts_ask_for_more_certainty_and_longer_drafts() -> None:
    experts = ExpertsConfig(
        num_experts=128,
        num_experts_per_token=8,
        intermediate_size=768,
        norm_topk_prob=True,
        layers=frozenset(range(48)),
        shared_intermediate_size=0,
    )
    dense, mixed = drafter_of(expected_growth(None)), drafter_of(expected_growth(experts))

    assert draft(dense, copying(dense, 5))
    assert not draft(mixed, copying(mixed, 5))
    assert len(draft(mixed, copying(mixed, 200))) >= 15


def test_copies_that_turn_out_wrong_are_given_up() -> None:
    drafter = drafter_of(lambda num_tokens: 1 + 0.15 * (num_tokens - 1))
    text = drafter.begin([1, 2, 3, 4, 5, 6, 7, 8])
    drafts = []
    for i in range(0, 120, 2):
        for token in (1, 2, 3):
            text.add(token)
        drafts.append(draft(drafter, text))
        for token in (100 + i, 101 + i):
            text.add(token)

    assert drafts[0][0] == 4
    assert not any(drafts[-20:])


def test_beside_many_other_answers_a_draft_must_be_cheap_for_all() -> None:
    drafter = drafter_of(lambda num_tokens: 1 + 0.15 * (num_tokens - 1))
    text = copying(drafter, 200)
    plan = StepPlan(num_tokens=1, num_gained=1)
    alone = drafter.draft(text, plan, 100)
    assert plan.num_tokens == 1 + len(alone)
    assert 0.9 * len(alone) < plan.num_gained - 1 <= len(alone)

    # Each further token now costs the others more than this answer gains.
    dear = drafter_of(lambda num_tokens: 1.0 if num_tokens <= 8 else float(num_tokens))
    assert dear.draft(copying(dear, 200), StepPlan(num_tokens=8, num_gained=8), 100) == []


def test_what_was_measured_replaces_what_was_guessed() -> None:
    cost = StepCost(lambda num_tokens: 1 + 0.15 * (num_tokens - 1))
    for _ in range(20):
        cost.observe(1, 0.040)
        cost.observe(4, 0.160)

    assert cost.seconds(1) == pytest.approx(0.040, rel=0.1)
    assert cost.seconds(4) == pytest.approx(0.160, rel=0.1)
    assert cost.seconds(8) > 0.160
    # One step that was held up is soon forgotten.
    cost.observe(4, 10.0)
    assert cost.seconds(4) < 0.25


def test_a_bad_first_measurement_is_tried_again_later() -> None:
    cost = StepCost(lambda num_tokens: 1 + 0.15 * (num_tokens - 1))
    cost.observe(1, 0.040)
    cost.observe(4, 2.0)
    at_first = cost.seconds(4)
    for _ in range(400):
        cost.observe(1, 0.040)

    assert at_first > 1.0
    assert cost.seconds(4) < 0.1


def test_acceptance_begins_with_what_is_known_of_others_and_follows_its_own_text() -> None:
    common = Acceptance()
    for _ in range(1000):
        common.observe(8, is_hit=True)
    own = Acceptance(common.probability, memory=40)
    assert own.probability(8) > 0.95

    for _ in range(100):
        own.observe(8, is_hit=False)

    assert own.probability(8) < 0.2
    assert common.probability(8) > 0.95
    right = own.expected(8, 4)
    assert right == sorted(right)
    assert right[-1] < common.expected(8, 4)[-1] / 4
