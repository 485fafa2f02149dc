"""What a grammar leaves no choice about is appended as it is encoded, not sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from engine_run import prompt_of
from random_checkpoint import write_safetensors

from qcode.engine.engine import Engine
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.sequence import TokenOutput
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.sampling import SamplingParams

OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)
HOT = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, max_tokens=200)
CONSTANT = 'start: "The quick brown fox jumps over the lazy dog." /[a-z]{3}/ " ends here"'
TOOLS: list[tuple[str, Mapping[str, object]]] = [
    (
        "read_file",
        {"type": "object", "properties": {"path": {"enum": ["a", "b"]}}, "required": ["path"]},
    )
]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_next"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_safetensors(tmp_path_factory.mktemp("model"), request.param))


def run(engine: Engine, sampling: SamplingParams, grammar: str) -> list[TokenOutput]:
    engine.submit(prompt_of(9), sampling, constraint=engine.grammars.compile(grammar))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def ids_of(outputs: list[TokenOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def test_a_constant_costs_no_step_and_is_encoded_as_text_is(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    tokenizer = loaded.tokenizer
    for seed in range(8):
        outputs = run(engine, replace(HOT, seed=seed), CONSTANT)

        ids = ids_of(outputs)
        text = tokenizer.decode(ids)
        assert text.startswith("The quick brown fox jumps over the lazy dog.")
        assert text.endswith(" ends here")
        assert outputs[-1].finish_reason == "stop"
        constant = tokenizer.encode("The quick brown fox jumps over the lazy")
        assert ids[: len(constant)] == constant
        num_forced = sum(output.num_forced_tokens for output in outputs)
        # The letters are chosen, and what may be part of one token with them.
        assert len(ids) - num_forced <= 8
        assert sum(bool(output.token_ids) for output in outputs) <= 9


def test_the_text_is_as_without_forcing_where_one_token_follows_another(
    loaded: LoadedModel,
) -> None:
    """The network sees the same tokens, so that what it chooses next is the same."""
    engine = Engine(loaded, OPTIONS)
    grammar = 'start: "call(" ("alpha" | "beta" | "gamma") ", " ("x" | "y") ")"'
    for seed in range(8):
        sampling = replace(HOT, seed=seed)
        ids = ids_of(run(engine, sampling, grammar))
        for cut in range(len(ids)):
            # From any token on, a request that has them as its prefix goes on in the same way.
            request = engine.submit(
                prompt_of(9),
                sampling,
                constraint=engine.grammars.compile(grammar),
                prefix_ids=ids[:cut],
            )
            rest = []
            while engine.has_work:
                outputs = engine.step()
                assert all(output.request_id == request for output in outputs)
                rest += ids_of(outputs)
            assert rest == ids[cut:]


def test_max_tokens_and_stop_strings_hold_inside_what_is_forced(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    whole = ids_of(run(engine, HOT, CONSTANT))
    for max_tokens in range(1, 12):
        outputs = run(engine, replace(HOT, max_tokens=max_tokens), CONSTANT)
        assert ids_of(outputs) == whole[:max_tokens]
        assert outputs[-1].finish_reason == "length"

    outputs = run(engine, replace(HOT, stop=("brown",)), CONSTANT)

    assert outputs[-1].finish_reason == "stop"
    text = loaded.tokenizer.decode(ids_of(outputs))
    assert "brown" in text
    assert "jumps" not in text


def test_the_context_window_holds_inside_what_is_forced(loaded: LoadedModel) -> None:
    engine = Engine(loaded, replace(OPTIONS, context_window=16))

    outputs = run(engine, HOT, CONSTANT)

    assert len(ids_of(outputs)) == 7
    assert outputs[-1].finish_reason == "length"


def test_a_wholly_forced_answer_asks_the_network_nothing(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)

    outputs = run(engine, HOT, 'start: "done"')

    assert loaded.tokenizer.decode(ids_of(outputs)) == "done"
    assert [output.finish_reason for output in outputs] == ["stop"]
    assert outputs[0].prefill is None


def test_forced_tokens_are_certain_and_without_alternatives(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)

    outputs = run(engine, replace(HOT, logprobs=2), CONSTANT)

    logprobs = [item for output in outputs for item in output.logprobs]
    assert [item.token_id for item in logprobs] == ids_of(outputs)
    num_forced = sum(output.num_forced_tokens for output in outputs)
    certain = [item for item in logprobs if item.top == ((item.token_id, 0.0),)]
    assert 0 < num_forced <= len(certain)


@pytest.mark.parametrize("form", ["json", "tags"])
def test_inside_a_call_only_what_the_model_decides_is_sampled(
    loaded: LoadedModel, form: CallFormat
) -> None:
    engine = Engine(loaded, OPTIONS)
    opening = loaded.tokenizer.special_id("<tool_call>")
    closing = loaded.tokenizer.special_id("</tool_call>")
    assert opening is not None
    assert closing is not None
    free, called = 0, 0
    for seed in range(6):
        sampling = replace(HOT, seed=seed, ignore_eos=True, max_tokens=60)
        request = engine.submit(
            prompt_of(9),
            sampling,
            constraint=engine.grammars.tool_calls(TOOLS, form),
            prefix_ids=[opening],
        )
        ids, forced_at = [], []
        while engine.has_work:
            for output in engine.step():
                assert output.request_id == request
                ids += output.token_ids
                forced_at += [len(ids)] * bool(output.num_forced_tokens)
        end = ids.index(closing)
        text = loaded.tokenizer.decode(ids[:end])
        assert "read_file" in text
        # Nothing is forced in the text after the call, unless another call is opened there.
        if opening not in ids[end:]:
            assert all(at <= end + 1 for at in forced_at)
            free += len(ids) - end
        called += end
    assert free > 0
    assert called > 0
