"""The real 0.5B model in other formats says what it said.

Measured: 0.5613 nats a token as it is, 0.5607 in q8_0, 0.5653 in q4_k_m.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcode.engine.conversion.quantize import quantize_checkpoint
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.protocol.sampling import SamplingParams

pytestmark = [
    pytest.mark.weights("0.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

TEXT = '''\
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number."""
    if n < 2:
        return n
    previous, current = 0, 1
    for _ in range(n - 1):
        previous, current = current, previous + current
    return current
'''
PROMPT = "def is_prime(n: int) -> bool:\n"


def test_eight_bits_change_nothing_and_four_little(tmp_path: Path) -> None:
    source = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    nll, text = opinion(source)
    quantize_checkpoint(source, tmp_path / "q8_0.gguf", "q8_0")
    nll_8, text_8 = opinion(tmp_path / "q8_0.gguf")
    assert nll_8 == pytest.approx(nll, abs=0.005)
    assert text_8 == text
    quantize_checkpoint(source, tmp_path / "q4_k_m.gguf", "q4_k_m")
    nll_4, _ = opinion(tmp_path / "q4_k_m.gguf")
    assert nll_4 == pytest.approx(nll, abs=0.02)
    print(f"nats a token: {nll:.4f} as it is, {nll_8:.4f} in q8_0, {nll_4:.4f} in q4_k_m")


def opinion(path: Path) -> tuple[float, list[int]]:
    """Mean negative log-likelihood of TEXT, and the greedy continuation of PROMPT."""
    engine = Engine.load(path, EngineOptions(dtype="float32"))
    tokenizer = engine.loaded.tokenizer
    scores = list(engine.score(tokenizer.encode(TEXT)))
    engine.submit(tokenizer.encode(PROMPT), SamplingParams(temperature=0, max_tokens=16))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    return -sum(scores) / len(scores), tokens
