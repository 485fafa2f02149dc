from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors
from torch import Tensor

from qcode.engine.async_engine import AsyncEngine
from qcode.engine.engine import Engine
from qcode.engine.models.loading import load_model
from qcode.engine.options import EngineOptions
from qcode.protocol.errors import CheckpointError, ContextOverflow, EngineError
from qcode.protocol.sampling import SamplingParams

pytestmark = pytest.mark.anyio

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=10)
ENDLESS = SamplingParams(temperature=0, repetition_penalty=1.0)
OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)
PROMPT = list(range(20))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncGenerator[AsyncEngine, None]:
    started = AsyncEngine.start(checkpoint, OPTIONS)
    yield started
    await started.aclose()


async def collect(engine: AsyncEngine, prompt: list[int], sampling: SamplingParams) -> list[int]:
    async with aclosing(engine.generate(prompt, sampling)) as outputs:
        return [token async for output in outputs for token in output.token_ids]


async def all_blocks_are_free(engine: AsyncEngine) -> bool:
    """Asked through another request, so that the engine has read its inbox up to there."""
    loaded = await engine.engine()
    await collect(engine, [1], GREEDY)
    return loaded.num_available_blocks == loaded.num_blocks


async def test_outputs_are_those_of_the_engine(engine: AsyncEngine, checkpoint: Path) -> None:
    expected: list[int] = []
    direct = Engine.load(checkpoint, OPTIONS)
    direct.submit(PROMPT, GREEDY)
    while direct.has_work:
        expected += [token for output in direct.step() for token in output.token_ids]

    assert await collect(engine, PROMPT, GREEDY) == expected


async def test_two_streams_run_at_once(engine: AsyncEngine) -> None:
    other = list(range(50, 90))
    alone = [await collect(engine, prompt, GREEDY) for prompt in (PROMPT, other)]

    async with (
        aclosing(engine.generate(PROMPT, GREEDY)) as first,
        aclosing(engine.generate(other, GREEDY)) as second,
    ):
        ids: list[list[int]] = [[], []]
        await anext(first)
        ids[1] += [token async for output in second for token in output.token_ids]
        ids[0] += [token async for output in first for token in output.token_ids]

    assert ids[1] == alone[1]
    assert ids[0] == alone[0][1:]


async def test_scores_are_those_of_the_engine_beside_an_answer(
    engine: AsyncEngine, checkpoint: Path
) -> None:
    ids = list(range(100, 160))
    expected = Engine.load(checkpoint, OPTIONS).score(ids)

    async with aclosing(engine.generate(PROMPT, ENDLESS)) as outputs:
        await anext(outputs)
        scores = await engine.score(ids)
        await anext(outputs)

    assert scores == pytest.approx(expected, abs=1e-4)
    assert await all_blocks_are_free(engine)


async def test_a_text_that_cannot_be_scored_is_an_error_of_its_own(engine: AsyncEngine) -> None:
    with pytest.raises(EngineError, match="two tokens"):
        await engine.score([1])

    assert len(await engine.score([1, 2, 3])) == 2


async def test_cancelling_a_score_aborts(engine: AsyncEngine) -> None:
    await engine.engine()
    task = asyncio.create_task(engine.score(list(range(300))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await all_blocks_are_free(engine)


async def test_closing_the_generator_early_aborts(engine: AsyncEngine) -> None:
    async with aclosing(engine.generate(PROMPT, ENDLESS)) as outputs:
        await anext(outputs)

    assert await all_blocks_are_free(engine)


async def test_cancelling_the_consumer_aborts(engine: AsyncEngine) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(engine.generate(PROMPT, ENDLESS)) as outputs:
            async for _ in outputs:
                begun.set()

    task = asyncio.create_task(consume())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await all_blocks_are_free(engine)


async def test_a_refused_request_leaves_the_others_alone(engine: AsyncEngine) -> None:
    async with aclosing(engine.generate(PROMPT, GREEDY)) as outputs:
        await anext(outputs)
        with pytest.raises(ContextOverflow):
            await collect(engine, [1] * 600, GREEDY)
        with pytest.raises(EngineError, match="temperature"):
            await collect(engine, PROMPT, SamplingParams(temperature=-1))
        rest = [output async for output in outputs]

    assert rest[-1].finish_reason == "length"


async def test_a_checkpoint_that_cannot_be_loaded_fails_every_request(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    engine = AsyncEngine.start(tmp_path / "broken.gguf", OPTIONS)
    for _ in range(2):
        with pytest.raises(CheckpointError):
            await collect(engine, PROMPT, GREEDY)
    await engine.aclose()


class BrokenNetwork:
    """A network whose forward fails as often as it is told to."""

    key_channels = ()

    def __init__(self, network: object, failures: int) -> None:
        self._network = network
        self._failures = failures

    def forward(self, *arguments: object) -> Tensor:
        if self._failures:
            self._failures -= 1
            raise RuntimeError("the device fell off the bus")
        return self._network.forward(*arguments)  # type: ignore[attr-defined,no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._network.logits(hidden)  # type: ignore[attr-defined,no-any-return]


async def test_a_failing_step_ends_open_requests_and_the_next_one_works(checkpoint: Path) -> None:
    def load(progress: Callable[[float], None]) -> Engine:
        loaded = load_model(checkpoint)
        return Engine(replace(loaded, model=BrokenNetwork(loaded.model, 1)), OPTIONS)

    engine = AsyncEngine(load)
    results = await asyncio.gather(
        collect(engine, PROMPT, GREEDY),
        collect(engine, PROMPT, GREEDY),
        return_exceptions=True,
    )
    assert any(isinstance(r, EngineError) and "off the bus" in str(r) for r in results)

    assert len(await collect(engine, PROMPT, GREEDY)) == 10
    assert await all_blocks_are_free(engine)
    await engine.aclose()


async def test_closing_in_the_middle_of_loading_and_of_an_answer(checkpoint: Path) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def hold(share: float) -> None:
        loading.set()
        go_on.wait(timeout=30)

    engine = AsyncEngine.start(checkpoint, OPTIONS, hold)
    request = asyncio.create_task(collect(engine, PROMPT, GREEDY))
    await asyncio.to_thread(loading.wait, 30)
    closing = asyncio.create_task(engine.aclose())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    with pytest.raises(EngineError, match="closed"):
        await request

    engine = AsyncEngine.start(checkpoint, OPTIONS)
    outputs = engine.generate(PROMPT, ENDLESS)
    await anext(outputs)
    await engine.aclose()
    with pytest.raises(EngineError, match="closed"):
        async for _ in outputs:
            pass
    with pytest.raises(EngineError, match="closed"):
        await collect(engine, PROMPT, GREEDY)


def test_an_engine_outlives_the_event_loop_of_a_request(checkpoint: Path) -> None:
    engine = AsyncEngine.start(checkpoint, OPTIONS)

    async def leave_open() -> int:
        outputs = engine.generate(PROMPT, ENDLESS)
        return len((await anext(outputs)).token_ids)

    async def use_and_close() -> list[int]:
        ids = await collect(engine, PROMPT, GREEDY)
        await engine.aclose()
        return ids

    asyncio.run(leave_open())
    assert len(asyncio.run(use_and_close())) == 10
