"""A real model writes a file again, with one change: drafts make it fast and change nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.weights, pytest.mark.xdist_group("engine"), pytest.mark.timeout(400)]

FILE = """\
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    x: float
    y: float

    def distance(self, other):
        return math.hypot(self.x - other.x, self.y - other.y)


@dataclass(frozen=True)
class Circle:
    center: Point
    radius: float

    def area(self):
        return math.pi * self.radius**2

    def contains(self, point):
        return self.center.distance(point) <= self.radius
"""
ASKED = f"""\
<|im_start|>user
Here is shapes.py:
```python
{FILE}```
Rename `area` to `surface` and write the whole file again, in one code block.<|im_end|>
<|im_start|>assistant
```python
"""
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=90)
SAMPLED = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, seed=1, max_tokens=90)
CASES = [
    GREEDY,
    replace(SAMPLED, repetition_penalty=1.05),
    replace(SAMPLED, temperature=1.0, top_p=1.0, top_k=0, seed=3),
]


@pytest.fixture(scope="module", params=["float16", "int8"])
def engines(request: pytest.FixtureRequest) -> tuple[Engine, Engine]:
    """Without drafts and with them, for each kind of keys and values."""
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    options = EngineOptions(kv_dtype=request.param, context_window=1024, speculation="off")
    plain = Engine.load(path, options)
    return plain, Engine(plain.loaded, replace(options, speculation="auto"))


@pytest.mark.parametrize("sampling", CASES)
def test_a_file_is_written_again_in_far_fewer_steps(
    engines: tuple[Engine, Engine], sampling: SamplingParams
) -> None:
    plain, drafting = engines
    prompt = plain.loaded.tokenizer.encode_prompt([(ASKED, True)])

    expected, num_plain_steps = run(plain, prompt, sampling)
    answer, num_steps = run(drafting, prompt, sampling)

    assert answer == expected
    assert "@dataclass(frozen=True)" in plain.loaded.tokenizer.decode(answer)
    assert num_plain_steps in (len(answer), len(answer) + 1)
    assert num_steps < num_plain_steps / 2


def run(engine: Engine, prompt: list[int], sampling: SamplingParams) -> tuple[list[int], int]:
    """The answer, and how many steps it took."""
    engine.submit(prompt, sampling)
    ids: list[int] = []
    num_steps = 0
    while engine.has_work:
        outputs = engine.step()
        ids += [token for output in outputs for token in output.token_ids]
        num_steps += any(output.token_ids or output.finish_reason for output in outputs)
    return ids, num_steps
