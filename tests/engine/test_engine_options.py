"""Options no step could be made with are refused by name, before a model is opened."""

from __future__ import annotations

from typing import Any

import pytest

from qcode.engine.device import choose_device
from qcode.engine.options import EngineOptions
from qcode.protocol.errors import EngineError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_size", 0),
        ("max_sequences", 0),  # nothing would ever be admitted
        ("max_chunk_tokens", 0),  # and no prompt ever read
        ("max_chunk_tokens", -3),
        ("context_window", 0),
        ("num_threads", 0),
        ("num_threads", 10**6),
        ("kv_memory_bytes", -1),
        ("state_memory_bytes", -1),
        ("chunk_target_s", float("nan")),
    ],
)
def test_impossible_values(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=f"{name}={value}"):
        EngineOptions(**{name: value})


@pytest.mark.parametrize("name", ["", "gpu", "meta", "mps"])
def test_devices_the_engine_does_not_run_on(name: str) -> None:
    with pytest.raises(EngineError, match=repr(name)) as refusal:
        choose_device(name)
    assert "cpu or cuda" in refusal.value.hint
