"""The engine on a tiny random hybrid checkpoint: whatever is reused, cut back, put off or run
beside other requests, answers are those of a fresh engine that reuses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from random_checkpoint import write_safetensors
from torch import Tensor

from qcode.engine.engine import Engine
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache
from qcode.engine.memory.budget import kv_bytes_per_token, state_bytes
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.models.network import Network
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.sequence import RequestId, TokenLogprobs
from qcode.engine.scheduling.state_pool import SNAPSHOT_SPACING
from qcode.protocol.sampling import SamplingParams

# An end token would be computed and not be in the answer: what is cached is counted without one.
GREEDY = SamplingParams(
    temperature=0, repetition_penalty=1.0, max_tokens=10, logprobs=3, ignore_eos=True
)
SAMPLED = SamplingParams(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    repetition_penalty=1.0,
    seed=5,
    max_tokens=10,
    logprobs=3,
    ignore_eos=True,
)
OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory: Path = tmp_path_factory.mktemp("model")
    checkpoint = write_safetensors(
        directory, "qwen3_next", num_hidden_layers=4, max_position_embeddings=4096
    )
    return load_model(checkpoint)


@dataclass
class Result:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cached_tokens: int = 0

    def is_close_to(self, other: Result) -> bool:
        """The same tokens, with the same probabilities but for rounding."""
        mine, others = ([item.logprob for item in r.logprobs] for r in (self, other))
        return self.ids == other.ids and mine == pytest.approx(others, abs=2e-4)


def run(engine: Engine, *requests: RequestId) -> list[Result]:
    """Step until everything is done."""
    results = {request: Result() for request in requests}
    while engine.has_work:
        for output in engine.step():
            result = results[output.request_id]
            result.ids += output.token_ids
            result.logprobs += output.logprobs
            if output.prefill is not None:
                result.cached_tokens = output.prefill.cached_tokens
    return list(results.values())


def ask(engine: Engine, prompt: Sequence[int], sampling: SamplingParams = GREEDY) -> Result:
    return run(engine, engine.submit(prompt, sampling))[0]


def afresh(loaded: LoadedModel, prompt: Sequence[int], sampling: SamplingParams = GREEDY) -> Result:
    """By an engine that has seen nothing before and keeps nothing."""
    return ask(Engine(loaded, replace(OPTIONS, prefix_reuse=False)), prompt, sampling)


def text_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 380, (length,), generator=generator).tolist()


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 65, 150])
def test_the_same_prompt_again_is_read_but_for_its_last_token(
    loaded: LoadedModel, length: int
) -> None:
    prompt = text_of(length, seed=length)
    engine = Engine(loaded, OPTIONS)
    expected = afresh(loaded, prompt)

    first, second = ask(engine, prompt), ask(engine, prompt)

    assert first.is_close_to(expected)
    assert second.is_close_to(expected)
    assert (first.cached_tokens, second.cached_tokens) == (0, length - 1)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_resumed_conversation_goes_on_where_each_answer_ended(
    loaded: LoadedModel, sampling: SamplingParams
) -> None:
    engine = Engine(loaded, OPTIONS)
    history, known = text_of(70), 0
    for turn in range(4):
        result = ask(engine, history, sampling)
        assert result.is_close_to(afresh(loaded, history, sampling))
        assert result.cached_tokens == known
        history += result.ids
        known = len(history) - 1
        history += text_of(13 + turn, seed=turn + 1)


@pytest.mark.parametrize("shared", [1299, 1100, 600, 515])
def test_a_prompt_that_shares_a_part_rolls_back_to_a_snapshot(
    loaded: LoadedModel, shared: int
) -> None:
    engine = Engine(loaded, OPTIONS)
    prompt = text_of(1300)
    ask(engine, prompt)
    changed = [*prompt[:shared], *text_of(40, seed=1)]

    result = ask(engine, changed)

    assert result.is_close_to(afresh(loaded, changed))
    end_of_prompt = 1299
    spaced = shared // SNAPSHOT_SPACING * SNAPSHOT_SPACING
    assert result.cached_tokens == (shared if shared == end_of_prompt else spaced)
    assert ask(engine, prompt).is_close_to(afresh(loaded, prompt))


def test_candidates_branch_off_an_answer(loaded: LoadedModel) -> None:
    engine = Engine(loaded, OPTIONS)
    prompt = text_of(60)
    original = ask(engine, prompt).ids
    branch = [*original[:4], (original[4] + 1) % 300]

    result = run(engine, engine.submit(prompt, GREEDY, prefix_ids=branch))[0]

    alone = Engine(loaded, replace(OPTIONS, prefix_reuse=False))
    expected = run(alone, alone.submit(prompt, GREEDY, prefix_ids=branch))[0]
    assert result.is_close_to(expected)
    assert result.cached_tokens == 59


@pytest.mark.parametrize("max_chunk_tokens", [1, 7, 64, 100])
def test_chunks_change_nothing_but_rounding(loaded: LoadedModel, max_chunk_tokens: int) -> None:
    prompt = text_of(201)
    whole = Engine(loaded, replace(OPTIONS, prefix_reuse=False, max_chunk_tokens=512))
    chunked = Engine(loaded, replace(OPTIONS, max_chunk_tokens=max_chunk_tokens))

    assert ask(chunked, prompt).is_close_to(ask(whole, prompt))


@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_a_snapshot_may_lie_anywhere_in_a_block(loaded: LoadedModel, block_size: int) -> None:
    engine = Engine(loaded, replace(OPTIONS, block_size=block_size))
    prompt = text_of(77)
    first = ask(engine, prompt)
    longer = [*prompt, *first.ids, *text_of(5, seed=2)]

    for text, cached in ((longer, 86), (prompt, 76), (longer, 91)):
        result = ask(engine, text)
        assert result.is_close_to(afresh(loaded, text))
        assert result.cached_tokens == cached


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_batch_of_different_lengths_is_each_alone(
    loaded: LoadedModel, sampling: SamplingParams
) -> None:
    """Some are read while others are answered; two go on from what a third one left."""
    engine = Engine(loaded, replace(OPTIONS, max_chunk_tokens=48))
    ask(engine, text_of(90))
    prompts = [text_of(length, seed=length) for length in (1, 3, 64, 130)]
    prompts += [text_of(90), [*text_of(89), 7, 8]]

    results = run(engine, *[engine.submit(prompt, sampling) for prompt in prompts])

    for prompt, result in zip(prompts, results, strict=True):
        assert result.is_close_to(afresh(loaded, prompt, sampling))
    assert [result.cached_tokens for result in results] == [0, 0, 0, 0, 89, 89]


@pytest.mark.parametrize("num_slots", [2, 3, 40])
def test_preempted_requests_get_the_same_answers(loaded: LoadedModel, num_slots: int) -> None:
    """In a cache that holds one window: requests lose their blocks and states, and go on."""
    config = loaded.config
    tight = replace(
        OPTIONS,
        context_window=128,
        kv_memory_bytes=128 * kv_bytes_per_token(config, "float32"),
        state_memory_bytes=num_slots * state_bytes(config),
        max_chunk_tokens=32,
    )
    engine = Engine(loaded, tight)
    sampling = replace(GREEDY, max_tokens=40)
    prompts = [text_of(length, seed=length) for length in (40, 50, 33)]
    requests = [engine.submit(prompt, sampling) for prompt in prompts]

    results = run(engine, *requests)

    for prompt, result in zip(prompts, results, strict=True):
        assert result.is_close_to(afresh(loaded, prompt, sampling))
    assert engine.num_available_blocks == engine.num_blocks
    assert engine.num_available_state_slots == num_slots


def test_scores_are_the_same_after_anything_else(loaded: LoadedModel) -> None:
    text = text_of(150)
    expected = Engine(loaded, OPTIONS).score(text)
    engine = Engine(loaded, OPTIONS)
    ask(engine, text[:100])

    assert engine.score(text) == pytest.approx(expected, abs=2e-4)
    assert ask(engine, text[:100]).cached_tokens == 99


class FailsOnce:
    """A network whose step of that number fails half-way: its states are written, no more."""

    def __init__(self, network: Network, failing_step: int) -> None:
        self._network = network
        self._steps_left = failing_step
        self.key_channels = network.key_channels

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        hidden = self._network.forward(ids, inputs, caches)
        self._steps_left -= 1
        if self._steps_left == 0:
            raise RuntimeError("failed")
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return self._network.logits(hidden)


@pytest.mark.parametrize("failing_step", [1, 2, 4])
def test_after_a_failed_step_nothing_is_left_of_it(loaded: LoadedModel, failing_step: int) -> None:
    failing = replace(loaded, model=FailsOnce(loaded.model, failing_step))
    engine = Engine(failing, OPTIONS)
    prompt = text_of(200)
    request = engine.submit(prompt, GREEDY)
    with pytest.raises(RuntimeError):
        run(engine, request)

    engine.reset()

    assert engine.num_available_blocks == engine.num_blocks
    result = ask(engine, prompt)
    assert result.is_close_to(afresh(loaded, prompt))
    assert result.cached_tokens == 0
    assert ask(engine, prompt).cached_tokens == 199


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, context_window=512)])
def test_a_network_of_linear_attention_alone(options: EngineOptions, tmp_path: Path) -> None:
    """It keeps no keys and values at all, so their memory sets no limit."""
    path = write_safetensors(tmp_path, "qwen3_next", num_hidden_layers=1)
    engine = Engine(load_model(path), replace(options, kv_memory_bytes=0))
    prompt = text_of(70)
    first = ask(engine, prompt)
    assert len(first.ids) == 10
    assert first.is_close_to(ask(engine, prompt))
