"""What ends an answer: tokens, strings, the text of a prefix; and what of it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_run import GREEDY, Result, answer, prompt_of, run
from random_checkpoint import write_safetensors

from qcode.engine.engine import Engine
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_safetensors(tmp_path_factory.mktemp("model"), "qwen3"))


@pytest.fixture
def engine(loaded: LoadedModel) -> Engine:
    return Engine(loaded, EngineOptions(kv_dtype="float32", num_threads=1))


def test_stop_ids_end_an_answer_and_are_not_in_it(engine: Engine) -> None:
    whole = answer(engine, prompt_of(10))
    stop = whole[5]

    result = run(engine, engine.submit(prompt_of(10), replace(GREEDY, stop_ids=(300, stop))))[0]

    assert result.ids == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"


def test_end_tokens_can_be_ignored(engine: Engine) -> None:
    ends = engine.loaded.tokenizer.eos_ids
    forced = replace(GREEDY, logit_bias=tuple((end, 100.0) for end in ends))

    ended = run(engine, engine.submit(prompt_of(10), forced))[0]
    going_on = run(engine, engine.submit(prompt_of(10), replace(forced, ignore_eos=True)))[0]

    assert (ended.ids, ended.finish_reason) == ([], "stop")
    assert (len(going_on.ids), going_on.finish_reason) == (12, "length")
    assert set(going_on.ids) <= ends


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(engine: Engine) -> None:
    tokenizer = engine.loaded.tokenizer
    prompt = prompt_of(10, seed=2)
    ascii_only = tuple((token, -100.0) for token in range(94, 256))
    long = replace(GREEDY, max_tokens=40, logit_bias=ascii_only)
    whole = answer(engine, prompt, long)
    text = tokenizer.decode(whole)
    assert text.isascii()

    for start in range(3, len(text) - 4, 5):
        stop = text[start : start + 3]
        result = run(engine, engine.submit(prompt, replace(long, stop=("never", stop))))[0]

        end = text.find(stop) + len(stop)
        size = next(n for n in range(len(whole) + 1) if len(tokenizer.decode(whole[:n])) >= end)
        assert result.ids == whole[:size]
        assert result.finish_reason == "stop"


def test_a_stop_string_may_begin_in_the_prefix_or_lie_in_it(engine: Engine) -> None:
    tokenizer = engine.loaded.tokenizer
    prefix = tokenizer.encode("the answer")
    forced = replace(GREEDY, logit_bias=((tokenizer.encode("!")[0], 100.0),))

    def ask(stop: str) -> Result:
        request = engine.submit(prompt_of(5), replace(forced, stop=(stop,)), prefix_ids=prefix)
        return run(engine, request)[0]

    assert tokenizer.decode(ask("er!!").ids) == "!!"
    assert ask("answer") == Result(finish_reason="stop")
    assert engine.num_available_blocks == engine.num_blocks


def test_an_empty_stop_string_stops_nothing(engine: Engine) -> None:
    assert answer(engine, prompt_of(10), replace(GREEDY, stop=("",))) == answer(
        engine, prompt_of(10)
    )
