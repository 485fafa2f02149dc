from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.model_config import GenerationDefaults
from qcode.engine.sampling.logit_adjustments import TokenCounts
from qcode.engine.sampling.sampler import (
    FIRST_CANDIDATES,
    ResolvedSampling,
    SamplingRow,
    logit_adjustments,
    resolve,
    sample,
    uniform,
)
from qcode.protocol.errors import EngineError
from qcode.protocol.sampling import SamplingParams


def sampling(
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    **others: Any,
) -> ResolvedSampling:
    return ResolvedSampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        **others,
    )


def draw_many(logits: torch.Tensor, params: ResolvedSampling, count: int = 4000) -> list[float]:
    rows = [SamplingRow(sampling=params, position=i) for i in range(count)]
    drawn = Counter(choice.token for choice in sample(logits.repeat(count, 1), rows))
    return [drawn[token] / count for token in range(logits.shape[-1])]


def transformers_probabilities(logits: torch.Tensor, params: ResolvedSampling) -> torch.Tensor:
    """What transformers' own processors leave to draw from."""
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    ids = torch.zeros(1, 0, dtype=torch.int64)
    scores = TemperatureLogitsWarper(params.temperature)(ids, logits[None].clone())
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(ids, scores)
    return torch.softmax(scores, dim=-1)[0]


@pytest.mark.parametrize(
    "params",
    [
        sampling(),
        sampling(temperature=0.5),
        sampling(top_k=3),
        sampling(top_p=0.6),
        sampling(temperature=1.5, top_k=4, top_p=0.8),
        sampling(min_p=0.2),
        sampling(min_p=1.0),
        sampling(temperature=2.0, min_p=0.3, top_k=5, top_p=0.9),
        sampling(temperature=2.0, min_p=0.5, top_p=0.95),
    ],
)
def test_draws_are_distributed_as_transformers_defines_them(params: ResolvedSampling) -> None:
    logits = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.7, -3.0])
    expected = transformers_probabilities(logits, params)

    drawn = draw_many(logits, params)

    for frequency, probability in zip(drawn, expected.tolist(), strict=True):
        assert abs(frequency - probability) < 4 * math.sqrt(0.25 / 4000)
        assert (frequency > 0) <= (probability > 0)


def test_a_flat_distribution_reaches_past_the_first_candidates() -> None:
    logits = torch.zeros(4 * FIRST_CANDIDATES)
    rows = [SamplingRow(sampling=sampling(top_p=0.999), position=i) for i in range(200)]

    tokens = {choice.token for choice in sample(logits.repeat(200, 1), rows)}

    assert len(tokens) > 150


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([0.5, 1.0]),
    min_p=st.sampled_from([0.0, 0.3]),
    position=st.integers(0, 1000),
)
def test_a_row_is_the_same_alone_and_in_a_batch(
    seed: int, top_k: int, top_p: float, min_p: float, position: int
) -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed % 1000))
    params = sampling(seed=seed, top_k=top_k, top_p=top_p, min_p=min_p, logprobs=2)
    row = SamplingRow(sampling=params, position=position)
    others = [SamplingRow(sampling=sampling(temperature=t), position=1) for t in (0.0, 2.0)]

    alone = sample(logits[1:2].clone(), [row])
    together = sample(logits.clone(), [others[0], row, others[1]])

    assert alone[0] == together[1]


def test_uniform_draws_fill_the_unit_interval_and_differ_by_seed() -> None:
    draws = [uniform(seed, position) for seed in range(50) for position in range(50)]

    assert all(0 <= draw < 1 for draw in draws)
    assert len(set(draws)) == len(draws)
    tenths = Counter(int(10 * draw) for draw in draws)
    assert all(180 < tenths[i] < 320 for i in range(10))


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = torch.tensor([[2.0, 1.9, -1.0, -1.05, 0.0]])
    params = sampling(temperature=0, repetition_penalty=1.5)
    adjustments = logit_adjustments(params, prompt=[0], output=[3])
    assert adjustments is not None
    for token in (0, 3, 4):
        adjustments.add(token)
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 3, 4]]), logits.clone())

    penalised = logits.clone()
    choice = sample(penalised, [SamplingRow(sampling=params, position=0, adjustments=adjustments)])

    assert torch.equal(penalised, expected)
    assert choice[0].token == 1


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=8, max_size=8)
some_tokens = st.lists(st.integers(0, 7), max_size=12)


@given(
    row=logit_rows,
    prompt=some_tokens,
    output=some_tokens,
    bias=st.dictionaries(st.integers(0, 7), st.floats(-100, 100, width=32), max_size=3),
    repetition=st.sampled_from([1.0, 0.7, 1.3]),
    presence=st.sampled_from([0.0, -1.5, 0.75]),
    frequency=st.sampled_from([0.0, -0.5, 2.0]),
    known=st.integers(0, 12),
)
def test_bias_then_repetition_then_presence_and_frequency(
    row: list[float],
    prompt: list[int],
    output: list[int],
    bias: dict[int, float],
    repetition: float,
    presence: float,
    frequency: float,
    known: int,
) -> None:
    """Each by its definition; `known` of the output come as a prefix, the rest one by one."""
    params = sampling(
        temperature=0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(bias.items()),
    )
    expected = []
    for token, logit in enumerate(row):
        value = logit + bias.get(token, 0.0)
        if token in prompt or token in output:
            value = value * repetition if value < 0 else value / repetition
        expected.append(value - frequency * output.count(token) - presence * (token in output))

    adjustments = logit_adjustments(params, prompt=prompt, output=output[:known])
    for token in output[known:]:
        if adjustments is not None:
            adjustments.add(token)
    logits = torch.tensor([row])
    sample(logits, [SamplingRow(sampling=params, position=0, adjustments=adjustments)])

    assert logits[0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_without_bias_and_penalties_nothing_is_kept() -> None:
    assert logit_adjustments(sampling(), prompt=[1], output=[2]) is None


def test_a_bias_forces_and_forbids_but_not_what_is_masked() -> None:
    params = sampling(temperature=0, logit_bias=((0, 100.0), (2, 100.0), (1, -100.0)))
    adjustments = logit_adjustments(params, prompt=[], output=[])
    allowed = torch.tensor([False, True, True, True])
    row = SamplingRow(sampling=params, position=0, adjustments=adjustments, allowed=allowed)

    assert sample(torch.tensor([[9.0, 8.0, -7.0, 6.0]]), [row])[0].token == 2


def test_token_counts_grow_without_duplicates() -> None:
    counts = TokenCounts([*range(10), 3])
    for token in [*range(500), *range(500), 3]:
        counts.add(token)

    numbers = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert numbers == {i: 2 + (i < 10) + 2 * (i == 3) for i in range(500)}


def test_min_p_reaches_past_the_first_candidates() -> None:
    num_likely = 2 * FIRST_CANDIDATES
    logits = torch.cat([torch.zeros(num_likely), torch.full((1000,), -3.0)])
    rows = [SamplingRow(sampling=sampling(min_p=0.5), position=i) for i in range(1000)]

    tokens = [choice.token for choice in sample(logits.repeat(1000, 1), rows)]

    assert max(tokens) < num_likely
    assert 0.4 < sum(token < FIRST_CANDIDATES for token in tokens) / 1000 < 0.6


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.tensor([5.0, 4.0, 0.0, 1.0])
    allowed = torch.tensor([False, False, True, True])
    rows = [
        SamplingRow(sampling=sampling(temperature=2, top_k=k), position=i, allowed=allowed)
        for i in range(200)
        for k in (0, 3)
    ]

    tokens = {choice.token for choice in sample(logits.repeat(400, 1), rows)}

    assert tokens == {2, 3}


def test_logprobs_are_the_models_own_among_the_allowed() -> None:
    """Whatever bias, penalty, temperature and truncation make of them."""
    logits = torch.tensor([[9.0, 2.0, 1.0, 0.0]])
    allowed = torch.tensor([False, True, True, True])
    params = sampling(
        temperature=0.1, top_k=1, repetition_penalty=10, logit_bias=((3, 1.5),), logprobs=20
    )
    adjustments = logit_adjustments(params, prompt=[1], output=[])
    row = SamplingRow(sampling=params, position=0, adjustments=adjustments, allowed=allowed)
    own = torch.log_softmax(torch.tensor([2.0, 1.0, 0.0]), dim=-1).tolist()

    (choice,) = sample(logits, [row])

    assert (choice.token, choice.logprob) == (3, pytest.approx(own[2]))
    assert [token for token, _ in choice.top] == [1, 2, 3]
    assert [logprob for _, logprob in choice.top] == pytest.approx(own)


def test_what_is_left_open_comes_from_the_checkpoint_then_from_the_family() -> None:
    own = GenerationDefaults(temperature=0.3, top_k=7)

    resolved = resolve(SamplingParams(temperature=0.0, seed=5), own, 10)

    assert resolved == ResolvedSampling(
        temperature=0.0, top_p=0.8, top_k=7, repetition_penalty=1.05, seed=5
    )
    assert resolve(SamplingParams(), own, 10).temperature == 0.3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
        ("logit_bias", ((3, 100.5),)),
        ("logit_bias", ((3, math.nan),)),
        ("logit_bias", ((10, 1.0),)),
        ("stop_ids", (3, 10)),
        ("stop_ids", (-1,)),
        ("logprobs", 21),
        ("logprobs", -1),
        ("seed", 2**70),
        ("max_tokens", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=rf"{name}.*out of range"):
        resolve(SamplingParams(**{name: value}), GenerationDefaults(), 10)


def test_a_token_has_one_bias() -> None:
    with pytest.raises(EngineError, match="logit_bias"):
        resolve(SamplingParams(logit_bias=((3, 1.0), (3, 2.0))), GenerationDefaults(), 10)
