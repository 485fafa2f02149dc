"""Timings of answers: of the length asked for, counted token by token, from the clock given."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from random_checkpoint import write_gguf

from qcode.engine.engine import Engine
from qcode.engine.measurement import (
    anonymous_bytes,
    measure,
    peak_rss_bytes,
    random_prompts,
    time_answer,
)
from qcode.engine.options import EngineOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_gguf(path, max_position_embeddings=4096)
    return path


def load(model: Path) -> Engine:
    return Engine.load(model, EngineOptions(context_window=4096, prefix_reuse=False))


def ticks() -> Iterator[float]:
    return map(float, count())


def test_an_answer_has_its_length_and_each_token_its_time(model: Path) -> None:
    engine = load(model)
    clock = ticks()
    timing = time_answer(engine, [1, 2, 3], 20, lambda: next(clock))
    # The clock is read once before and once after each token.
    assert timing.prefill_s == 1.0
    assert timing.token_s == (1.0,) * 19
    assert timing.decode_rate == 1.0
    assert len(timing.token_ids) == 20
    assert not engine.has_work


def test_random_prompts_are_the_same_every_time_and_differ_from_one_another() -> None:
    first, second = islice(random_prompts(64, 100), 2)
    assert first == next(random_prompts(64, 100))
    assert first != second
    assert len(first) == 64
    assert all(0 <= token < 100 for token in first)


def test_all_figures_of_a_model(model: Path) -> None:
    said: list[str] = []
    measured = measure(lambda: load(model), said.append)
    speeds = (measured.prefill_512, measured.prefill_2048, measured.decode, measured.decode_2k)
    assert min(speeds) > 0
    assert 0 < measured.load_s < 60
    assert 0 < measured.peak_rss_mib < 2**20
    assert len(said) == len(set(said)) == 3 + 1 + 9


def test_the_peak_is_not_below_what_is_held_now() -> None:
    ballast = bytearray(50 * 2**20)
    now = anonymous_bytes()
    if now is not None:
        assert now >= len(ballast)
        assert peak_rss_bytes() >= now
