"""The engine on a tiny random network: however tokens are computed, they are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_run import GREEDY, Result, answer, prompt_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import write_safetensors

from qcode.engine.engine import Engine
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import PagedKV
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.sampling.sampler import SamplingRow, logit_adjustments, resolve, sample
from qcode.engine.scheduling.sequence import Prefill, RequestId
from qcode.protocol.errors import ContextOverflow, EngineError, OutOfMemory
from qcode.protocol.sampling import SamplingParams

SAMPLED = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=3, max_tokens=12)
PENALISED = SamplingParams(temperature=0, repetition_penalty=1.5, max_tokens=12)
EVERYTHING = SamplingParams(
    temperature=1.3,
    top_k=50,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.7,
    logit_bias=((11, 2.5), (47, -100.0)),
    seed=7,
    max_tokens=12,
)
OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_safetensors(tmp_path_factory.mktemp("model"), "qwen3"))


def options(**changes: object) -> EngineOptions:
    values = {name: getattr(OPTIONS, name) for name in EngineOptions.__dataclass_fields__}
    return EngineOptions(**{**values, **changes})


def plain_loop(
    loaded: LoadedModel, prompt: list[int], sampling: SamplingParams = GREEDY
) -> list[int]:
    """The whole text through the network for every token, with no engine."""
    config, tokens = loaded.config, list(prompt)
    resolved = resolve(sampling, config.generation, loaded.tokenizer.num_tokens)
    shape = (1, config.num_key_value_heads, 128, config.head_dim)
    for position in range(sampling.max_tokens or 0):
        n = len(tokens)
        inputs = AttentionInputs(
            positions=torch.arange(n),
            slots=torch.arange(n),
            query_starts=torch.tensor([0, n], dtype=torch.int32),
            context_lens=torch.tensor([n], dtype=torch.int32),
            block_tables=torch.zeros(1, 1, dtype=torch.int32),
        )
        kv = [
            PagedKV(keys=torch.zeros(shape), values=torch.zeros(shape))
            for _ in range(config.num_layers)
        ]
        hidden = loaded.model.forward(torch.tensor(tokens), inputs, kv)
        logits = loaded.model.logits(hidden[-1:])[:, : loaded.tokenizer.num_tokens]
        output = tokens[len(prompt) :]
        adjustments = logit_adjustments(resolved, prompt=prompt, output=output)
        row = SamplingRow(sampling=resolved, position=position, adjustments=adjustments)
        token = sample(logits, [row])[0].token
        if token in loaded.tokenizer.eos_ids:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED, EVERYTHING])
@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_answers_are_those_of_a_plain_loop(
    loaded: LoadedModel, length: int, sampling: SamplingParams
) -> None:
    prompt = prompt_of(length, seed=length)

    assert answer(Engine(loaded, OPTIONS), prompt, sampling) == plain_loop(loaded, prompt, sampling)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED, EVERYTHING])
def test_chunked_prefill_changes_nothing(loaded: LoadedModel, sampling: SamplingParams) -> None:
    prompt = prompt_of(45)
    whole = Engine(loaded, OPTIONS)
    chunked = Engine(loaded, options(max_chunk_tokens=7))

    expected = run(whole, whole.submit(prompt, sampling))[0]
    result = run(chunked, chunked.submit(prompt, sampling))[0]

    assert result.ids == expected.ids
    assert [p.done_tokens for p in expected.prefills] == [45]
    assert [p.done_tokens for p in result.prefills] == [7, 14, 21, 28, 35, 42, 45]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED, EVERYTHING])
def test_batched_is_alone(loaded: LoadedModel, sampling: SamplingParams) -> None:
    prompts = [prompt_of(length, seed=length) for length in (3, 20, 33)]
    alone = [answer(Engine(loaded, OPTIONS), prompt, sampling) for prompt in prompts]
    engine = Engine(loaded, options(max_chunk_tokens=16))

    together = run(engine, *[engine.submit(prompt, sampling) for prompt in prompts])

    assert [result.ids for result in together] == alone


@pytest.mark.parametrize("length", [16, 31, 32, 33])
def test_a_cached_prompt_is_read_but_for_its_last_token(loaded: LoadedModel, length: int) -> None:
    prompt = prompt_of(length)
    engine = Engine(loaded, OPTIONS)
    first = answer(engine, prompt)

    second = run(engine, engine.submit(prompt, GREEDY))[0]

    assert second.ids == first
    assert second.prefills == [
        Prefill(done_tokens=length, total_tokens=length, cached_tokens=length - 1)
    ]


def test_the_next_turn_finds_the_answer_in_the_cache(loaded: LoadedModel) -> None:
    prompt = prompt_of(30)
    engine = Engine(loaded, OPTIONS)
    first = answer(engine, prompt)
    next_turn = [*prompt, *first, *prompt_of(9, seed=5)]

    second = run(engine, engine.submit(next_turn, GREEDY))[0]

    # The last sampled token was never computed.
    assert second.prefills[0].cached_tokens == len(prompt) + len(first) - 1
    assert second.ids == answer(Engine(loaded, OPTIONS), next_turn)


def test_candidates_on_one_prompt_share_it_up_to_where_they_differ(loaded: LoadedModel) -> None:
    prompt = prompt_of(21)
    engine = Engine(loaded, OPTIONS)
    original = answer(engine, prompt)
    branch = [*original[:5], (original[5] + 1) % 300]

    result = run(engine, engine.submit(prompt, GREEDY, prefix_ids=branch))[0]

    assert result.prefills[0].cached_tokens == len(prompt) + 5
    uncached = Engine(loaded, OPTIONS)
    expected = run(uncached, uncached.submit(prompt, GREEDY, prefix_ids=branch))[0]
    assert result.ids == expected.ids


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED, EVERYTHING])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_continuing_a_prefix_is_the_uninterrupted_answer(
    loaded: LoadedModel, sampling: SamplingParams, cut: int
) -> None:
    prompt = prompt_of(10)
    engine = Engine(loaded, OPTIONS)
    whole = answer(engine, prompt, sampling)

    result = run(engine, engine.submit(prompt, sampling, prefix_ids=whole[:cut]))[0]

    assert result.ids == whole[cut:]


def test_a_seed_gives_the_same_tokens_and_another_seed_others(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    prompt = prompt_of(10)

    first = answer(engine, prompt, SAMPLED)

    assert answer(engine, prompt, SAMPLED) == first
    other = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=4, max_tokens=12)
    assert answer(engine, prompt, other) != first


def test_an_answer_ends_at_an_end_token_and_does_not_hold_it(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    seeds = range(40)
    ends = []
    for seed in seeds:
        sampling = SamplingParams(temperature=3.0, top_k=0, top_p=1.0, seed=seed, max_tokens=60)
        result = run(engine, engine.submit(prompt_of(5), sampling))[0]
        assert not loaded.tokenizer.eos_ids & set(result.ids)
        assert (result.finish_reason == "length") == (len(result.ids) == 60)
        ends.append(result.finish_reason)

    assert set(ends) == {"stop", "length"}


def test_padding_rows_of_the_vocabulary_are_never_sampled(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    hot = SamplingParams(temperature=50.0, top_k=0, top_p=1.0, seed=1, max_tokens=200)

    assert max(answer(engine, prompt_of(5), hot)) < loaded.tokenizer.num_tokens


def test_the_context_window_ends_an_answer_and_refuses_a_prompt(loaded: LoadedModel) -> None:
    engine = Engine(loaded, options(context_window=32))
    forever = SamplingParams(temperature=0, repetition_penalty=1.0)

    result = run(engine, engine.submit(prompt_of(30), forever))[0]

    assert (len(result.ids), result.finish_reason) == (2, "length")
    with pytest.raises(ContextOverflow, match="32"):
        engine.submit(prompt_of(32), forever)


def test_logprobs_name_the_chosen_token_and_the_likely_ones(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)

    result = run(engine, engine.submit(prompt_of(10), replace(GREEDY, logprobs=3)))[0]

    assert [item.token_id for item in result.logprobs] == result.ids
    for item in result.logprobs:
        assert item.top[0] == (item.token_id, item.logprob)
        assert 0 > item.top[0][1] >= item.top[1][1] >= item.top[2][1]


def test_an_answer_under_a_grammar_is_a_text_of_it(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    tokenizer = loaded.tokenizer
    grammar = 'start: "return " ("alpha" | "beta") ";"'
    texts, reasons = set(), set()
    for seed in range(10):
        sampling = SamplingParams(temperature=2.0, seed=seed)
        constraint = engine.grammars.compile(grammar)
        result = run(engine, engine.submit(prompt_of(9), sampling, constraint=constraint))[0]
        texts.add(tokenizer.decode(result.ids))
        reasons.add(result.finish_reason)

    assert texts == {"return alpha;", "return beta;"}
    assert reasons == {"stop"}


def test_a_prefix_counts_as_text_of_the_grammar(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    tokenizer = loaded.tokenizer
    grammar = 'start: "return " ("alpha" | "beta") ";"'
    prefix = tokenizer.encode("return b")

    constraint = engine.grammars.compile(grammar)
    request = engine.submit(prompt_of(9), GREEDY, constraint=constraint, prefix_ids=prefix)

    assert tokenizer.decode(run(engine, request)[0].ids) == "eta;"
    with pytest.raises(EngineError, match="grammar"):
        engine.submit(
            prompt_of(9),
            GREEDY,
            constraint=engine.grammars.compile(grammar),
            prefix_ids=tokenizer.encode("zeta"),
        )


def test_a_prefix_that_is_already_a_whole_answer_ends_at_once(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    prefix = loaded.tokenizer.encode("done")
    constraint = engine.grammars.compile('start: "done"')

    request = engine.submit(prompt_of(9), GREEDY, constraint=constraint, prefix_ids=prefix)

    assert run(engine, request) == [Result(finish_reason="stop")]


def test_ids_out_of_the_vocabulary_and_empty_prompts_are_refused(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    for prompt in ([], [-1], [loaded.tokenizer.num_tokens]):
        with pytest.raises(EngineError):
            engine.submit(prompt, GREEDY)
    assert not engine.has_work


def test_too_little_memory_for_a_useful_cache_says_how_much(loaded: LoadedModel) -> None:
    with pytest.raises(OutOfMemory, match="hold 32 tokens"):
        Engine(loaded, options(kv_memory_bytes=32 * 2 * 3 * 2 * 32 * 4))


@pytest.mark.parametrize("sampling", [SAMPLED, EVERYTHING])
def test_an_answer_that_lost_its_blocks_goes_on_as_if_it_had_not(
    loaded: LoadedModel, sampling: SamplingParams
) -> None:
    long = replace(sampling, max_tokens=40)
    prompts = [prompt_of(length, seed=length) for length in (14, 15, 13)]
    # Room for one and a half of three sequences of 54 tokens.
    small = options(context_window=64, kv_memory_bytes=80 * 2 * 3 * 2 * 32 * 4)
    engine = Engine(loaded, small)

    results = run(engine, *[engine.submit(prompt, long) for prompt in prompts])

    assert [result.ids for result in results] == [plain_loop(loaded, p, long) for p in prompts]


def test_penalties_on_the_output_spare_the_prompt_but_not_the_prefix(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    token, other = 40, 41
    forced = replace(
        GREEDY, max_tokens=2, logit_bias=((token, 50.0), (other, 49.0)), presence_penalty=2.0
    )

    after_prompt = answer(engine, [5, token, token], replace(forced, max_tokens=1))
    after_prefix = run(engine, engine.submit([5], forced, prefix_ids=[token]))

    assert after_prompt == [token]
    assert after_prefix[0].ids == [other]


@pytest.mark.parametrize(
    "wrong",
    [
        SamplingParams(stop_ids=(400,)),
        SamplingParams(logit_bias=((399, 1.0),)),
        SamplingParams(min_p=2.0),
    ],
)
def test_sampling_values_out_of_range_are_refused(
    loaded: LoadedModel, wrong: SamplingParams
) -> None:
    engine = Engine(loaded, OPTIONS)

    with pytest.raises(EngineError, match="out of range"):
        engine.submit(prompt_of(5), wrong)
    assert not engine.has_work


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_aborting_at_any_moment_frees_every_block(loaded: LoadedModel, data: st.DataObject) -> None:
    """And those that stay get the same answers, in a cache too small for all of them at once."""
    engine = Engine(loaded, options(context_window=64, kv_memory_bytes=64 * 2 * 3 * 2 * 32 * 4))
    prompts = [prompt_of(length, seed=length) for length in (20, 26, 33)]
    requests = [engine.submit(prompt, GREEDY) for prompt in prompts]
    ids: dict[RequestId, list[int]] = {request: [] for request in requests}
    aborted = set()
    while engine.has_work:
        if data.draw(st.integers(0, 9)) == 0:
            victim = data.draw(st.sampled_from(requests))
            engine.abort(victim)
            aborted.add(victim)
        for output in engine.step():
            assert output.request_id not in aborted
            ids[output.request_id] += output.token_ids

    assert engine.num_available_blocks == 4
    for request, prompt in zip(requests, prompts, strict=True):
        if request not in aborted:
            assert ids[request] == plain_loop(loaded, prompt)


def test_a_float16_cache_is_close_to_a_float32_one(loaded: LoadedModel) -> None:
    half = Engine(loaded, options(kv_dtype="float16"))
    full = Engine(loaded, OPTIONS)
    prompt = prompt_of(40)

    first, second = (
        run(e, e.submit(prompt, replace(GREEDY, logprobs=0)))[0].logprobs[0] for e in (half, full)
    )

    assert first.token_id == second.token_id
    assert first.logprob == pytest.approx(second.logprob, abs=1e-2)


def test_loading_reports_progress_and_can_be_ended_by_it(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model", "qwen3")
    shares: list[float] = []
    Engine.load(path, OPTIONS, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0

    class Enough(Exception):
        pass

    def stop(share: float) -> None:
        raise Enough

    with pytest.raises(Enough):
        Engine.load(path, OPTIONS, stop)
