"""Scores are transformers' log-probabilities, whatever else runs and however a text is cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import FAMILIES, write_gguf, write_safetensors
from transformers import AutoModelForCausalLM

from qcode.engine.engine import Engine
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.sampling.scoring import SCORED_ROWS, log_probabilities
from qcode.engine.scheduling.sequence import RequestId, TokenLogprobs
from qcode.protocol.errors import EngineError
from qcode.protocol.sampling import SamplingParams

TOLERANCE = 1e-4
EXACT = EngineOptions(dtype="float32", num_threads=1)
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=12)


def ids_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 380, (length,), generator=generator).tolist()


def reference_scores(directory: Path, ids: Sequence[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    targets = torch.tensor(ids[1:])[:, None]
    return torch.log_softmax(logits, dim=-1).gather(-1, targets)[:, 0].tolist()


def scores_of(engine: Engine, *requests: RequestId) -> list[list[float]]:
    """Step until everything is done."""
    scores: dict[RequestId, list[float]] = {request: [] for request in requests}
    finished = set()
    while engine.has_work:
        for output in engine.step():
            if output.request_id in scores:
                assert output.request_id not in finished
                scores[output.request_id] += output.scores
                if output.finish_reason is not None:
                    finished.add(output.request_id)
    assert finished == set(requests)
    return list(scores.values())


def close(expected: Sequence[float]) -> object:
    return pytest.approx(expected, abs=TOLERANCE)


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_safetensors(tmp_path_factory.mktemp("model"), "qwen3"))


def test_scores_are_those_of_transformers_for_every_network(directory: Path) -> None:
    texts = [ids_of(length, seed=length) for length in (2, 16, 90)]
    expected = [reference_scores(directory, ids) for ids in texts]
    whole = Engine.load(directory, EXACT)
    chunked = Engine.load(directory, EngineOptions(dtype="float32", max_chunk_tokens=7))

    assert [whole.score(ids) for ids in texts] == [close(scores) for scores in expected]
    assert [chunked.score(ids) for ids in texts] == [close(scores) for scores in expected]
    together = scores_of(whole, *[whole.submit_score(ids) for ids in texts])
    assert together == [close(scores) for scores in expected]


def test_quantised_weights_are_multiplied_exactly_where_float32_is_asked_for(
    tmp_path: Path,
) -> None:
    size = {"hidden_size": 256, "intermediate_size": 512}
    weights = write_gguf(tmp_path / "model.gguf", "qwen2", matrix_type="Q4_K", **size)
    plain = write_safetensors(tmp_path / "plain", "qwen2", weights=weights, **size)
    ids = ids_of(60)
    expected = reference_scores(plain, ids)

    assert Engine.load(tmp_path / "model.gguf", EXACT).score(ids) == close(expected)


def test_scores_are_the_logprobs_of_the_same_tokens_as_an_answer(tmp_path: Path) -> None:
    # Without unused rows in the vocabulary, which scores count and answers leave out.
    num_tokens = load_model(write_safetensors(tmp_path / "any")).tokenizer.num_tokens
    engine = Engine.load(write_safetensors(tmp_path / "model", vocab_size=num_tokens), EXACT)
    prompt = ids_of(20)
    answer = SamplingParams(temperature=0, repetition_penalty=1.3, max_tokens=12, logprobs=0)
    engine.submit(prompt, answer)
    chosen: list[TokenLogprobs] = []
    while engine.has_work:
        for output in engine.step():
            chosen += output.logprobs

    scores = engine.score([*prompt, *[item.token_id for item in chosen]])

    assert scores[-len(chosen) :] == close([item.logprob for item in chosen])


def test_a_text_that_is_cached_is_computed_again(loaded: LoadedModel) -> None:
    engine = Engine(loaded, EXACT)
    ids = ids_of(50)
    first = engine.score(ids)
    engine.submit(ids, GREEDY)
    scores_of(engine)

    request = engine.submit_score(ids)
    outputs = engine.step()

    assert [output.prefill.cached_tokens for output in outputs if output.prefill] == [0]
    assert list(outputs[0].scores) == first
    assert outputs[0].request_id == request


def test_what_was_scored_is_found_by_the_next_request(loaded: LoadedModel) -> None:
    engine = Engine(loaded, EXACT)
    ids = ids_of(50)
    engine.score(ids)

    engine.submit(ids, GREEDY)
    outputs = engine.step()

    assert outputs[0].prefill is not None
    assert outputs[0].prefill.cached_tokens == 49


def test_scoring_neither_loses_nor_changes_what_others_are_told(loaded: LoadedModel) -> None:
    alone = Engine(loaded, EXACT)
    ids = ids_of(60, seed=9)
    prompts = [ids_of(length, seed=length) for length in (5, 30)]
    requests = [alone.submit(prompt, GREEDY) for prompt in prompts]
    answers: dict[RequestId, list[int]] = {request: [] for request in requests}
    while alone.has_work:
        for output in alone.step():
            answers[output.request_id] += output.token_ids
    engine = Engine(loaded, EXACT)
    requests = [engine.submit(prompt, GREEDY) for prompt in prompts]
    told: dict[RequestId, list[int]] = {request: [] for request in requests}
    for _ in range(3):
        for output in engine.step():
            told[output.request_id] += output.token_ids

    scores = engine.score(ids)

    assert scores == close(alone.score(ids))
    while engine.has_work:
        for output in engine.step():
            told[output.request_id] += output.token_ids
    assert list(told.values()) == list(answers.values())
    assert engine.num_available_blocks == engine.num_blocks


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_scores_come_once_even_where_blocks_are_lost_on_the_way(
    loaded: LoadedModel, data: st.DataObject
) -> None:
    """In a cache that is too small for all, beside answers that take its blocks."""
    texts = [ids_of(length, seed=length) for length in (40, 25)]
    expected = [Engine(loaded, EXACT).score(ids) for ids in texts]
    options = EngineOptions(
        dtype="float32",
        num_threads=1,
        context_window=64,
        kv_memory_bytes=80 * 2 * 3 * 2 * 32 * 4,
        max_chunk_tokens=data.draw(st.sampled_from([4, 9, 64])),
    )
    engine = Engine(loaded, options)
    endless = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=30)
    for seed in range(data.draw(st.integers(1, 2))):
        engine.submit(ids_of(14, seed=seed), endless)
    for _ in range(data.draw(st.integers(0, 3))):
        engine.step()

    scores = scores_of(engine, *[engine.submit_score(ids) for ids in texts])

    assert scores == [close(part) for part in expected]
    assert engine.num_available_blocks == engine.num_blocks


def test_a_score_that_is_aborted_frees_its_blocks(loaded: LoadedModel) -> None:
    engine = Engine(loaded, EngineOptions(dtype="float32", max_chunk_tokens=8))
    request = engine.submit_score(ids_of(60))
    assert len(engine.step()[0].scores) == 8
    assert engine.num_available_blocks < engine.num_blocks

    engine.abort(request)

    assert not engine.has_work
    assert engine.num_available_blocks == engine.num_blocks


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([], "two tokens"), ([5], "two tokens"), ([5, -1], "vocabulary"), ([5, 399], "vocabulary")],
)
def test_texts_that_cannot_be_scored_are_refused(
    loaded: LoadedModel, ids: list[int], reason: str
) -> None:
    engine = Engine(loaded, EXACT)

    with pytest.raises(EngineError, match=reason):
        engine.score(ids)
    assert not engine.has_work


def test_a_text_may_fill_the_context_window_and_not_more(loaded: LoadedModel) -> None:
    engine = Engine(loaded, EngineOptions(dtype="float32", context_window=32, num_threads=1))

    assert len(engine.score(ids_of(32))) == 31
    with pytest.raises(EngineError, match="context window 32"):
        engine.score(ids_of(33))


def test_the_logits_of_few_tokens_exist_at_a_time() -> None:
    num_tokens, rows_seen = 2 * SCORED_ROWS + 5, []
    table = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(num_tokens, 8, generator=torch.Generator().manual_seed(2))
    targets = torch.arange(num_tokens) % 50

    def logits(rows: torch.Tensor) -> torch.Tensor:
        rows_seen.append(len(rows))
        return rows @ table

    scores = log_probabilities(hidden, targets, logits)

    assert rows_seen == [SCORED_ROWS, SCORED_ROWS, 5]
    expected = torch.log_softmax(hidden @ table, dim=-1)[torch.arange(num_tokens), targets]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)
