"""What can be set about the engine. Plain values; the settings layer fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KVDtype = Literal["auto", "float16", "bfloat16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """`None` and "auto" leave the choice to the model and the machine.

    `context_window` is the most tokens one sequence may hold, prompt and answer together; it is
    never more than the model's own and never more than the cache holds. `kv_memory_bytes` is the
    budget of the key and value cache. A prefill chunk has at most `max_chunk_tokens` tokens and
    is sized to take about `chunk_target_s` seconds, so that an abort is noticed that soon and
    sequences that are already being answered keep moving.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: KVDtype = "auto"
    context_window: int | None = None
    kv_memory_bytes: int | None = None
    block_size: int = 16
    max_sequences: int = 16
    max_chunk_tokens: int = 512
    chunk_target_s: float = 1.0
    num_threads: int | None = None
    prefix_reuse: bool = True
