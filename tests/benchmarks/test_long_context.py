"""Memory stays flat but for keys and values, and they take what was computed for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIB = 2**20
NUM_TOKENS = 8 * 1024
SLACK_BYTES = 5 * MIB
"""For what allocators keep and for the bookkeeping of blocks. One matrix of scores of this prompt
with itself would be fifty times as much."""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("kv_dtype", ["fp16", "int8"])
def test_memory_grows_by_keys_and_values_alone(kv_dtype: str) -> None:
    """In a process of its own, which has taken no memory before."""
    command = [sys.executable, "-m", "benchmarks.long_context", "--json", "--threads", "1"]
    command += ["--tokens", str(NUM_TOKENS), "--kv-dtype", kv_dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    run = json.loads(done.stdout)
    first, last = run["marks"][0], run["marks"][-1]
    assert last["num_tokens"] == NUM_TOKENS
    assert run["window_kv_bytes"] >= last["kv_bytes"]
    computed = last["kv_bytes"] - first["kv_bytes"]
    grown = last["grown_bytes"] - first["grown_bytes"]
    # Memory that a step gave back may hold the next keys: only the whole has a lower bound.
    assert last["grown_bytes"] > 0.9 * last["kv_bytes"]
    assert grown < computed + SLACK_BYTES
