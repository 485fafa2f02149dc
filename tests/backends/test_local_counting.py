"""Prompts are counted by the model's own vocabulary, with or without its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors

from qcode.backends.local import LocalBackend
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import ChatRequest, CountsTokens
from qcode.protocol.chunks import Completed
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec

pytestmark = pytest.mark.anyio

OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)
REQUEST = ChatRequest(
    system="Be brief.",
    messages=(UserMessage(content="What is 6 times 7? " * 5),),
    tools=(ToolSpec(name="look", description="Looks.", schema={"type": "object"}),),
    sampling=SamplingParams(max_tokens=1),
)


async def test_the_count_is_what_the_engine_is_given(tmp_path: Path) -> None:
    write_safetensors(tmp_path, "qwen2", max_position_embeddings=2048)
    backend = LocalBackend(tmp_path, name="tiny", options=OPTIONS)
    assert isinstance(backend, CountsTokens)
    before = backend.count_tokens(REQUEST)
    try:
        chunks = [chunk async for chunk in backend.stream(REQUEST)]
    finally:
        await backend.aclose()
    completed = chunks[-1]
    assert isinstance(completed, Completed)
    assert completed.message.usage.input_tokens == before == backend.count_tokens(REQUEST)
    assert backend.count_tokens(replace(REQUEST, tools=())) < before
