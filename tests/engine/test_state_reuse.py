"""The whole engine over a network that remembers by checksums: no state is ever another's."""

from __future__ import annotations

import pytest
from checksum_network import NUM_ANSWER_TOKENS, expected_answer, with_checksum_network
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import write_safetensors

from qcode.engine.engine import Engine
from qcode.engine.memory.budget import kv_bytes_per_token, state_bytes
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.sequence import RequestId
from qcode.engine.scheduling.state_pool import SNAPSHOT_SPACING
from qcode.protocol.errors import EngineError
from qcode.protocol.sampling import SamplingParams

ANSWER_TOKENS = 9


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = load_model(write_safetensors(tmp_path_factory.mktemp("model"), "qwen3"))
    return with_checksum_network(model, context_window=3000)


def engine_of(
    loaded: LoadedModel, *, kv_tokens: int = 9000, num_slots: int = 40, **changes: object
) -> Engine:
    options = {
        "context_window": min(kv_tokens, 3000),
        "kv_dtype": "float32",
        "kv_memory_bytes": kv_tokens * kv_bytes_per_token(loaded.config, "float32"),
        "state_memory_bytes": num_slots * state_bytes(loaded.config),
        "num_threads": 1,
    }
    return Engine(loaded, EngineOptions(**{**options, **changes}))


def submit(engine: Engine, prompt: list[int], max_tokens: int = ANSWER_TOKENS) -> RequestId:
    return engine.submit(prompt, SamplingParams(temperature=0, max_tokens=max_tokens))


def finish(engine: Engine) -> tuple[dict[RequestId, list[int]], dict[RequestId, int]]:
    """Step until everything is done: answers, and how much of each prompt was reused."""
    answers: dict[RequestId, list[int]] = {}
    cached: dict[RequestId, int] = {}
    while engine.has_work:
        for output in engine.step():
            answers.setdefault(output.request_id, []).extend(output.token_ids)
            if output.prefill is not None:
                cached[output.request_id] = output.prefill.cached_tokens
    return answers, cached


def ask(
    engine: Engine, prompt: list[int], max_tokens: int = ANSWER_TOKENS
) -> tuple[list[int], int]:
    request = submit(engine, prompt, max_tokens)
    answers, cached = finish(engine)
    return answers[request], cached[request]


def text_of(length: int, seed: int = 0) -> list[int]:
    return [(seed * 7919 + i * i * 31 + i * 7) % NUM_ANSWER_TOKENS for i in range(length)]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 40, 700])
@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_answers_are_those_of_the_definition(
    loaded: LoadedModel, length: int, prefix_reuse: bool
) -> None:
    engine = engine_of(loaded, prefix_reuse=prefix_reuse)
    prompt = text_of(length)

    for cached in (0, length - 1 if prefix_reuse else 0):
        assert ask(engine, prompt) == (expected_answer(prompt, ANSWER_TOKENS), cached)


def test_a_conversation_is_never_read_twice(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    tokens, known = text_of(700), 0
    for turn in range(6):
        answer, cached = ask(engine, tokens)
        assert answer == expected_answer(tokens, ANSWER_TOKENS)
        assert cached == known
        tokens += answer
        known = len(tokens) - 1
        tokens += text_of(20 + turn, seed=turn + 1)


def test_a_changed_prompt_goes_back_to_a_snapshot(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    prompt = text_of(2500)
    ask(engine, prompt)

    for shared in (2499, 2400, 1300, 100):
        changed = [*prompt[:shared], *text_of(30, seed=9)]
        answer, cached = ask(engine, changed)
        assert answer == expected_answer(changed, ANSWER_TOKENS)
        spaced = shared // SNAPSHOT_SPACING * SNAPSHOT_SPACING
        assert cached == (shared if shared == len(prompt) - 1 else spaced)


def test_an_aborted_prompt_and_an_aborted_answer_are_reused(loaded: LoadedModel) -> None:
    engine = engine_of(loaded, max_chunk_tokens=128)
    prompt = text_of(300)
    expected = expected_answer(prompt, ANSWER_TOKENS)
    aborted_at = []
    for num_steps in (1, 4):
        request = submit(engine, prompt)
        outputs = [engine.step()[0] for _ in range(num_steps)]
        engine.abort(request)
        assert outputs[0].prefill is not None
        aborted_at.append((outputs[0].prefill.cached_tokens, outputs[-1].token_ids))

    # Steps of 128 and 128 tokens, then 43, then one for each token of the answer.
    assert aborted_at == [(0, ()), (128, (expected[1],))]
    continued = [*prompt, *expected[:2]]
    assert ask(engine, continued, max_tokens=7) == (expected[2:], 301)


def test_a_scored_text_leaves_other_states_alone(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    prompt = text_of(200)
    ask(engine, prompt)
    request = submit(engine, [*prompt, 5, 6])
    engine.step()

    scores = engine.score(text_of(150, seed=4))

    assert len(scores) == 149
    answers, _ = finish(engine)
    expected = expected_answer([*prompt, 5, 6], ANSWER_TOKENS)
    assert answers[request] == expected[-len(answers[request]) :]
    assert ask(engine, prompt) == (expected_answer(prompt, ANSWER_TOKENS), 199)


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_with_few_slots_fewer_run_at_a_time(loaded: LoadedModel, num_slots: int) -> None:
    engine = engine_of(loaded, num_slots=num_slots)
    prompts = [text_of(20 + number, seed=number) for number in range(6)]
    requests = [submit(engine, prompt) for prompt in prompts]

    answers, _ = finish(engine)

    for request, prompt in zip(requests, prompts, strict=True):
        assert answers[request] == expected_answer(prompt, ANSWER_TOKENS)
    assert engine.num_available_state_slots == num_slots


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_comes_between_answers_are_right_and_nothing_leaks(
    loaded: LoadedModel, data: st.DataObject
) -> None:
    """Too few blocks and slots, prompts that share parts, aborts, resets, refused prompts."""
    num_slots = data.draw(st.integers(1, 6))
    engine = engine_of(
        loaded,
        kv_tokens=128,
        num_slots=num_slots,
        max_chunk_tokens=data.draw(st.sampled_from([5, 16, 64])),
        max_sequences=data.draw(st.integers(1, 4)),
    )
    num_blocks = engine.num_available_blocks
    texts = [text_of(70)]
    prompts: dict[RequestId, list[int]] = {}
    answers: dict[RequestId, list[int]] = {}
    for _ in range(data.draw(st.integers(5, 40))):
        action = data.draw(st.sampled_from(["submit", "submit", "step", "step", "abort", "reset"]))
        if action == "submit":
            text = data.draw(st.sampled_from(texts))
            shared = data.draw(st.integers(0, min(len(text), 90)))
            prompt = [*text[:shared], *text_of(data.draw(st.integers(1, 30)), seed=len(texts))]
            request = submit(engine, prompt)
            prompts[request], answers[request] = prompt, []
        elif action == "step":
            take(engine, prompts, answers, texts)
        elif action == "abort" and prompts:
            request = data.draw(st.sampled_from(sorted(prompts)))
            engine.abort(request)
            del prompts[request]
        elif action == "reset" and data.draw(st.integers(0, 3)) == 0:
            engine.reset()
            prompts.clear()
            with pytest.raises(EngineError):
                submit(engine, [])
    while engine.has_work:
        take(engine, prompts, answers, texts)

    assert not prompts
    assert engine.num_available_blocks == num_blocks
    assert engine.num_available_state_slots == num_slots


def take(
    engine: Engine,
    prompts: dict[RequestId, list[int]],
    answers: dict[RequestId, list[int]],
    texts: list[list[int]],
) -> None:
    """One step; what is finished is checked, and becomes a text that later prompts begin with."""
    for output in engine.step():
        request = output.request_id
        answers[request] += output.token_ids
        if output.finish_reason is not None:
            prompt = prompts.pop(request)
            assert answers[request] == expected_answer(prompt, ANSWER_TOKENS)[: 128 - len(prompt)]
            texts.append(prompt + answers[request])
