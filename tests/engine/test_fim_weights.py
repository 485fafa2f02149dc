"""The real 0.5B file fills in the middle of what llama.cpp was given to fill in.

What it fills in is compared with llama.cpp's in test_llama_cpp_greedy.py, up to near ties.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import aclosing
from pathlib import Path

import pytest

from qcode.backends.local import LocalBackend
from qcode.engine.options import EngineOptions
from qcode.protocol.chunks import Completed
from qcode.protocol.sampling import SamplingParams

# One group, so that two engines never share the cores: each would wait for the other's threads.
pytestmark = [
    pytest.mark.weights,
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(400),
]

MODEL = "qwen2.5-coder-0.5b.gguf"
GOLDEN = Path(__file__).parent.parent / "golden" / "llama_cpp_greedy.json"
PROMPT = re.compile(r"<\|fim_prefix\|>(.*)<\|fim_suffix\|>(.*)<\|fim_middle\|>", re.DOTALL)
MAX_TOKENS = 32
"""As recorded."""


def test_middles_are_what_follows_the_recorded_prompts() -> None:
    recordings = json.loads(GOLDEN.read_text())["models"]
    [answers] = [recording["answers"] for recording in recordings if recording["model"] == MODEL]
    middles: dict[str, str] = {}

    async def fill_in() -> None:
        # Both are read whole: what is read in other portions is rounded in another way.
        backend = LocalBackend(
            Path(os.environ["QCODE_TEST_MODELS"]) / MODEL,
            name="0.5b",
            options=EngineOptions(prefix_reuse=False),
        )
        engine = backend.start()
        tokenizer = (await engine.engine()).loaded.tokenizer
        sampling = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=MAX_TOKENS)
        for answer in answers:
            if parts := PROMPT.fullmatch(answer["text"]):
                async with aclosing(backend.complete(parts[1], parts[2], sampling)) as chunks:
                    completed = [chunk async for chunk in chunks][-1]
                assert isinstance(completed, Completed)
                middles[answer["prompt"]] = completed.message.text
                async with aclosing(engine.generate(answer["prompt_ids"], sampling)) as outputs:
                    ids = [id_ async for output in outputs for id_ in output.token_ids]
                assert completed.message.text == tokenizer.decode(ids)
        await backend.aclose()

    asyncio.run(fill_in())

    assert len(middles) == 3
    assert middles["fill in an expression"].startswith("a + b\n")
