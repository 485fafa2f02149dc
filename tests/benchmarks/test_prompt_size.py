"""The fixed part of every request stays small: it is paid for before the first word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.prompt_size import TEMPLATES, counted_by, estimated, measure


def test_system_prompt_and_tools_keep_to_the_limit_of_their_profile() -> None:
    sizes = measure(estimated)
    assert len(sizes) == 2 * len(TEMPLATES)
    for size in sizes:
        assert 0 < size.system < size.total <= size.limit, size
    full = {size.template: size for size in sizes if size.profile == "full"}
    for size in sizes:
        if size.profile == "lean":
            assert size.num_tools < full[size.template].num_tools
            assert size.total < full[size.template].total


@pytest.mark.weights
def test_the_estimate_is_never_below_what_a_real_vocabulary_counts() -> None:
    model = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    for counted, guessed in zip(measure(counted_by(model)), measure(estimated), strict=True):
        assert counted.total <= guessed.total, counted
        assert counted.total <= counted.limit
