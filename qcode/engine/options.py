"""What can be set about the engine. Plain values; the settings layer fills them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from qcode.protocol.errors import EngineError
from qcode.protocol.values import dataclass

KVDtype = Literal["auto", "float32", "float16", "bfloat16", "float8", "int8"]

Speculation = Literal["auto", "off"]

KVDtypeName = Literal["auto", "fp16", "bf16", "fp8", "int8"]
KV_DTYPES: Mapping[KVDtypeName, KVDtype] = {
    "auto": "auto",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8",
    "int8": "int8",
}
"""By the short names that people give."""

MAX_COUNT = 2**31
MAX_THREADS = 4096

_SIZE = re.compile(r"(\d+)\s*([km]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20}


def parse_context(text: str) -> int:
    """Tokens in `32768`, `32K`, `256K` or `1M`: K is 1024 and M 1024 * 1024.

    Raises ValueError.
    """
    match = _SIZE.fullmatch(text.strip())
    num_tokens = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not num_tokens:
        raise ValueError("not a number of tokens such as 32768, 256K or 1M")
    return num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheOptions:
    """Where prefixes are kept across runs, and how much at most, of all models together. With
    `read_only` what is there is used and nothing is written."""

    directory: Path
    max_bytes: int
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeightsOptions:
    """Where files of packed weights may be, besides a model's own folder: `directory`. Those of
    models below `managed` are written beside them by themselves."""

    directory: Path | None = None
    managed: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """`None` and "auto" leave the choice to the model and the machine.

    `dtype` is that of activations. "float32" asks for exact products too: nothing is rounded to
    fewer bits on the way, as "auto" does where that is faster.

    `context_window` is the most tokens one sequence may hold, prompt and answer together. More
    than the model's own window scales the model by YaRN; a window that is asked for and does not
    fit the memory is an error, one that is not asked for shrinks to what fits.

    `kv_dtype` is what keys and values are kept in: float8 (e4m3) and int8 halve the memory of
    float16 at some loss of precision. `kv_memory_bytes` is the budget of the key and value cache,
    `state_memory_bytes` that of the recurrent states of linear attention and their snapshots.
    A prefill chunk has at most `max_chunk_tokens` tokens and is sized to take about
    `chunk_target_s` seconds, so that an abort is noticed that soon and sequences that are already
    being answered keep moving.

    `speculation` "auto" guesses tokens that an answer seems to copy from its prompt and checks them
    in one step, where that is faster. With compiled kernels, on weights of 16 bits or fewer, the
    answer is the same without: a token's result has the same bits in every step of up to 32 tokens
    of its sequence. Elsewhere it is so up to the rounding of steps of different sizes.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: KVDtype = "auto"
    context_window: int | None = None
    kv_memory_bytes: int | None = None
    state_memory_bytes: int | None = None
    block_size: int = 16
    max_sequences: int = 16
    max_chunk_tokens: int = 512
    chunk_target_s: float = 1.0
    num_threads: int | None = None
    prefix_reuse: bool = True
    speculation: Speculation = "auto"
    prefix_cache: PrefixCacheOptions | None = None
    """None keeps prefixes in memory only."""
    packed_weights: PackedWeightsOptions | None = PackedWeightsOptions()
    """None packs weights anew at each start."""

    def __post_init__(self) -> None:
        """Raises `EngineError` for values that no step could be made with."""
        for name in ("block_size", "max_sequences", "max_chunk_tokens"):
            self._check(name, low=1, high=MAX_COUNT)
        self._check("num_threads", low=1, high=MAX_THREADS)
        self._check("context_window", low=1, high=2**63)
        for name in ("kv_memory_bytes", "state_memory_bytes"):
            self._check(name, low=0, high=2**63)
        self._check("chunk_target_s", low=0, high=3600)

    def _check(self, name: str, *, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not low <= value <= high:
            raise EngineError(f"engine options: {name}={value} is not from {low} to {high}")
