"""The window the bundled engine advertises, before and after its model is loaded."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors

from qcode.backends.local import LocalBackend
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import ChatRequest
from qcode.protocol.errors import EngineError
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams

pytestmark = pytest.mark.anyio

OWN = 256


def backend_with(directory: Path, context_window: int | None) -> LocalBackend:
    path = write_safetensors(directory, "qwen3", max_position_embeddings=OWN)
    options = EngineOptions(context_window=context_window, num_threads=1)
    return LocalBackend(path, name="tiny", options=options)


@pytest.mark.parametrize(
    ("asked", "window", "scaled"), [(None, OWN, False), (100, 100, False), (4 * OWN, 4 * OWN, True)]
)
async def test_the_window_is_the_one_asked_for(
    tmp_path: Path, asked: int | None, window: int, scaled: bool
) -> None:
    backend = backend_with(tmp_path, asked)
    assert backend.model.context_window == window
    assert [notice.startswith("Context 1,024: YaRN") for notice in backend.notices] == [
        True
    ] * scaled
    request = ChatRequest(
        system="",
        messages=(UserMessage(content="hi"),),
        sampling=SamplingParams(max_tokens=1, temperature=0),
    )
    async with aclosing(backend.stream(request)) as chunks:
        async for _ in chunks:
            pass
    assert backend.model.context_window == window
    await backend.aclose()


async def test_a_window_beyond_all_scaling_is_refused_before_loading(tmp_path: Path) -> None:
    backend = backend_with(tmp_path, 4 * OWN + 1)
    for ask in (lambda: backend.model, lambda: backend.notices):
        with pytest.raises(EngineError, match="1,025"):
            ask()
    await backend.aclose()
