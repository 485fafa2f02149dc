"""Drafts change how fast an answer comes, and nothing about it.

Sources that hold the very answer, whole or damaged, make drafts that are right for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from engine_run import prompt_of
from random_checkpoint import Family, write_safetensors

from qcode.engine.engine import Engine
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.sequence import FinishReason, RequestId, TokenLogprobs
from qcode.protocol.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=60, ignore_eos=True)
SAMPLED = replace(GREEDY, temperature=1.0, top_k=0, top_p=1.0, seed=3)
NUCLEUS = replace(GREEDY, temperature=0.8, top_k=40, top_p=0.7, seed=11)
PENALISED = replace(GREEDY, repetition_penalty=1.4)
EVERYTHING = replace(
    GREEDY,
    temperature=1.3,
    top_k=50,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.7,
    logit_bias=((11, 2.5), (47, -100.0)),
    seed=7,
    logprobs=2,
)
KINDS = [GREEDY, SAMPLED, NUCLEUS, PENALISED, EVERYTHING]
PLAIN = EngineOptions(kv_dtype="float32", num_threads=1, speculation="off")
DRAFTING = replace(PLAIN, speculation="auto")


@dataclass
class Answer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_steps: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_forced: int = 0

    def is_as(self, other: Answer) -> bool:
        """The same tokens, for the same reasons."""
        mine, others = ([item.logprob for item in a.logprobs] for a in (self, other))
        same = (self.ids, self.finish_reason) == (other.ids, other.finish_reason)
        return same and mine == pytest.approx(others, abs=1e-4)


def run(engine: Engine, *requests: RequestId) -> list[Answer]:
    answers = {request: Answer() for request in requests}
    while engine.has_work:
        for output in engine.step():
            answer = answers[output.request_id]
            assert answer.finish_reason is None
            assert output.num_accepted_tokens <= len(output.token_ids)
            answer.ids += output.token_ids
            answer.logprobs += output.logprobs
            answer.finish_reason = output.finish_reason
            answer.num_steps += bool(output.token_ids)
            answer.num_drafted += output.num_draft_tokens
            answer.num_accepted += output.num_accepted_tokens
            answer.num_forced += output.num_forced_tokens
    return list(answers.values())


def damaged(ids: list[int]) -> list[int]:
    """With tokens replaced, left out and put in."""
    return [
        x
        for i, token in enumerate(ids)
        for x in (
            (token, 5)
            if i % 23 == 22
            else ()
            if i % 17 == 16
            else (7,)
            if i % 11 == 10
            else (token,)
        )
    ]


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "qwen3_moe"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    family: Family = request.param
    return load_model(write_safetensors(tmp_path_factory.mktemp("model"), family))


@pytest.mark.parametrize("sampling", KINDS)
@pytest.mark.parametrize("length", [6, 40])
def test_an_answer_is_the_same_whatever_is_drafted(
    loaded: LoadedModel, sampling: SamplingParams, length: int
) -> None:
    prompt = prompt_of(length, seed=length)
    plain = Engine(loaded, PLAIN)
    expected = run(plain, plain.submit(prompt, sampling))[0]
    whole = [*prompt[-4:], *expected.ids]
    drafting = Engine(loaded, DRAFTING)
    answers = []

    for source in (whole, damaged(whole), prompt_of(80, seed=99), []):
        request = drafting.submit(prompt, sampling, sources=[source])
        answers.append(run(drafting, request)[0])

    assert expected.num_drafted == 0
    assert all(answer.is_as(expected) for answer in answers)
    # Right drafts save steps. Wrong ones were made too, and refused.
    assert answers[0].num_steps < expected.num_steps / 2
    assert 0 < answers[1].num_accepted < answers[1].num_drafted


@pytest.mark.parametrize("sampling", [GREEDY, EVERYTHING])
def test_batched_and_preempted_answers_are_the_same_with_drafts(
    loaded: LoadedModel, sampling: SamplingParams
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (14, 15, 13)]
    plain = Engine(loaded, PLAIN)
    alone = [run(plain, plain.submit(prompt, sampling))[0] for prompt in prompts]
    config = loaded.config
    token_bytes = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * 4
    # Room for one and a half of three sequences of 74 tokens.
    small = replace(DRAFTING, context_window=80, kv_memory_bytes=112 * token_bytes)
    engine = Engine(loaded, small)
    num_blocks = engine.num_available_blocks

    requests = [
        engine.submit(prompt, sampling, sources=[damaged([*prompt[-4:], *expected.ids])])
        for prompt, expected in zip(prompts, alone, strict=True)
    ]
    together = run(engine, *requests)

    assert all(answer.is_as(expected) for answer, expected in zip(together, alone, strict=True))
    assert engine.num_available_blocks == num_blocks


def test_max_tokens_end_an_answer_inside_a_draft(loaded: LoadedModel) -> None:
    prompt = prompt_of(20)
    plain, drafting = Engine(loaded, PLAIN), Engine(loaded, DRAFTING)
    expected = run(plain, plain.submit(prompt, SAMPLED))[0].ids
    source = [*prompt[-4:], *expected]

    for max_tokens in range(1, 40):
        sampling = replace(SAMPLED, max_tokens=max_tokens)
        answer = run(drafting, drafting.submit(prompt, sampling, sources=[source]))[0]
        assert (answer.ids, answer.finish_reason) == (expected[:max_tokens], "length")


def test_the_context_window_ends_an_answer_inside_a_draft(loaded: LoadedModel) -> None:
    prompt = prompt_of(20)
    plain = Engine(loaded, PLAIN)
    expected = run(plain, plain.submit(prompt, GREEDY))[0].ids
    engine = Engine(loaded, replace(DRAFTING, context_window=48))

    answer = run(engine, engine.submit(prompt, GREEDY, sources=[[*prompt[-4:], *expected]]))[0]

    assert (answer.ids, answer.finish_reason) == (expected[:28], "length")


def test_a_stop_string_or_an_end_token_ends_an_answer_inside_a_draft(loaded: LoadedModel) -> None:
    prompt = prompt_of(20)
    plain, drafting = Engine(loaded, PLAIN), Engine(loaded, DRAFTING)
    ids = run(plain, plain.submit(prompt, SAMPLED))[0].ids
    ends = []
    for at in range(8, 50, 3):
        text = loaded.tokenizer.decode(ids[at : at + 2])
        for sampling in (
            replace(SAMPLED, stop_ids=(ids[at],)),
            replace(SAMPLED, stop=(text,)),
        ):
            expected = run(plain, plain.submit(prompt, sampling))[0]
            source = [*prompt[-4:], *ids]
            answer = run(drafting, drafting.submit(prompt, sampling, sources=[source]))[0]
            assert answer.is_as(expected)
            ends.append(answer.finish_reason)

    assert "stop" in ends


def test_the_next_turn_finds_what_a_drafted_answer_left_in_the_cache(loaded: LoadedModel) -> None:
    prompt = prompt_of(30)
    plain, drafting = Engine(loaded, PLAIN), Engine(loaded, DRAFTING)
    expected = run(plain, plain.submit(prompt, SAMPLED))[0].ids
    source = damaged([*prompt[-4:], *expected])
    first = run(drafting, drafting.submit(prompt, SAMPLED, sources=[source]))[0]
    next_turn = [*prompt, *first.ids, *prompt_of(9, seed=5)]

    request = drafting.submit(next_turn, GREEDY)
    prefills = [output.prefill for output in drafting.step()]
    second = run(drafting, request)[0]

    # The last sampled token was never computed; no wrong guess is taken for a token.
    assert prefills[0] is not None
    assert prefills[0].cached_tokens == len(prompt) + len(first.ids) - 1
    whole = run(plain, plain.submit(next_turn, GREEDY))[0]
    assert second.ids == whole.ids[-len(second.ids) :]


def test_drafts_under_a_grammar_change_nothing(loaded: LoadedModel) -> None:
    grammar = 'start: ("alpha" | "beta" | /[a-z]{2,9}/) (", " /[a-z]{1,4}/){6} ";"'
    prompt = prompt_of(9)
    plain, drafting = Engine(loaded, PLAIN), Engine(loaded, DRAFTING)
    num_accepted = 0
    for seed in range(6):
        sampling = SamplingParams(temperature=1.5, seed=seed, max_tokens=60)
        constraint = plain.grammars.compile(grammar)
        expected = run(plain, plain.submit(prompt, sampling, constraint=constraint))[0]
        for source in (expected.ids, damaged(expected.ids)):
            request = drafting.submit(
                prompt,
                sampling,
                constraint=drafting.grammars.compile(grammar),
                sources=[[*prompt[-4:], *source]],
            )
            answer = run(drafting, request)[0]
            assert answer.is_as(expected)
            num_accepted += answer.num_accepted
        assert expected.finish_reason == "stop"
    assert num_accepted > 0


def test_a_model_with_recurrent_states_makes_no_drafts(tmp_path: Path) -> None:
    loaded = load_model(write_safetensors(tmp_path / "model", "qwen3_next"))
    prompt = prompt_of(20)
    plain, drafting = Engine(loaded, PLAIN), Engine(loaded, DRAFTING)
    expected = run(plain, plain.submit(prompt, SAMPLED))[0]

    source = [*prompt[-4:], *expected.ids]
    answer = run(drafting, drafting.submit(prompt, SAMPLED, sources=[source]))[0]

    assert answer.is_as(expected)
    assert answer.num_drafted == 0
