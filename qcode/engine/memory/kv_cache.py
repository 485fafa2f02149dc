"""The key and value tensors of every layer, in blocks, and how many of them fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from qcode.engine.layers.cache import PagedKV
from qcode.engine.memory import budget as memory_budget
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions, KVDtype
from qcode.engine.scheduling.block_pool import BlockCopy
from qcode.protocol.errors import OutOfMemory

TORCH_DTYPES: dict[KVDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
    "int8": torch.int8,
}
_SCALED: tuple[KVDtype, ...] = ("float8", "int8")

MIN_USEFUL_TOKENS = 2048
"""A cache for less than this, where the model could do more, is an error and not a setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCachePlan:
    """`context_window` is the most tokens one sequence may hold; the blocks hold at least that."""

    num_blocks: int
    context_window: int


def plan_kv_cache(
    config: ModelConfig, options: EngineOptions, *, kv_dtype: KVDtype, available_bytes: int
) -> KVCachePlan:
    """Room for two whole context windows within a quarter of the free memory, or for as many as
    sequences may run within the budget that was set; but always for a window that was asked for,
    whatever share of the memory it takes. Raises `OutOfMemory`."""
    window = min(options.context_window or config.context_window, config.context_window)
    token_bytes = memory_budget.kv_bytes_per_token(config, kv_dtype)
    block_bytes = options.block_size * token_bytes
    blocks_per_window = -(-window // options.block_size)
    if options.kv_memory_bytes is None:
        room, num_windows = available_bytes // 4, 2
    else:
        room, num_windows = options.kv_memory_bytes, options.max_sequences
    if options.context_window is not None:
        _check_fit(config, options, window, kv_dtype, available_bytes)
        room = max(room, blocks_per_window * block_bytes)
    num_blocks = num_windows * blocks_per_window
    if block_bytes:  # else there is no full attention, and a block is only a number
        num_blocks = min(num_blocks, room // block_bytes)
    num_tokens = num_blocks * options.block_size
    if num_tokens < min(window, MIN_USEFUL_TOKENS):
        raise OutOfMemory(
            f"the key and value cache needs {token_bytes / 1024:.0f} KiB "
            f"a token; {room / 2**20:.0f} MiB hold {num_tokens} tokens only",
            "Free some memory, raise the cache's budget or choose a smaller model.",
        )
    return KVCachePlan(num_blocks=num_blocks, context_window=min(window, num_tokens))


def _check_fit(
    config: ModelConfig,
    options: EngineOptions,
    window: int,
    kv_dtype: KVDtype,
    available_bytes: int,
) -> None:
    """Raises `OutOfMemory` if a window of this size does not fit the memory or the cache's own
    budget, with the sizes and with what would fit."""
    needed = memory_budget.budget(
        config,
        weight_bytes=0,
        kv_dtype=kv_dtype,
        context_window=window,
        available_bytes=available_bytes,
    )
    largest = needed.largest_context_window
    if options.kv_memory_bytes is not None and needed.kv_bytes_per_token:
        largest = min(largest, options.kv_memory_bytes // needed.kv_bytes_per_token)
    if window <= largest:
        return
    limit = (
        ""
        if options.kv_memory_bytes is None
        else (f" and {_size(options.kv_memory_bytes)} set as the cache's budget")
    )
    smaller = "" if kv_dtype in _SCALED else " or with --kv-dtype int8 about half the memory"
    raise OutOfMemory(
        f"a context of {window:,} tokens needs {_size(needed.kv_bytes)} for keys and values in "
        f"{kv_dtype} ({needed.kv_bytes_per_token / 1024:.1f} KiB a token) and "
        f"{_size(needed.state_bytes + needed.scratch_bytes)} besides; "
        f"{_size(available_bytes)} are free{limit}",
        f"Try --context {largest}{smaller}." if largest else "Free some memory.",
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


class KVCache:
    """`layers` holds, for each layer with full attention in order, keys and values
    [num_blocks, Hkv, block_size, D], with scales [num_blocks, Hkv, block_size] for float8 and
    int8.

    On the CPU memory is reserved, not touched: the operating system backs a block when it is
    first written, so a large cache costs what is used of it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int,
        kv_dtype: KVDtype,
        device: torch.device,
        key_channels: Sequence[Tensor | None] = (),
    ) -> None:
        """`key_channels` are those of the `Network`, used for int8. Raises `OutOfMemory`."""
        shape = (num_blocks, config.num_key_value_heads, block_size, config.head_dim)
        try:
            self.layers: list[PagedKV] = [
                _layer(shape, kv_dtype, device, channels)
                for _, channels in zip_longest(config.attention_layers, key_channels)
            ]
        except RuntimeError as error:
            size = num_blocks * block_size * memory_budget.kv_bytes_per_token(config, kv_dtype)
            raise OutOfMemory(
                f"no room for the key and value cache of {_size(size)} on {device}",
                "Set a smaller context window (--context) or cache budget, or --kv-dtype int8.",
            ) from error

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """In order: a later copy may overwrite an earlier one's source."""
        for item in copies:
            for layer in self.layers:
                for cache in (layer.keys, layer.values, layer.key_scales, layer.value_scales):
                    if cache is not None:
                        source, target = cache[item.source], cache[item.target]
                        target[:, : item.num_slots] = source[:, : item.num_slots]


def _layer(
    shape: tuple[int, ...], kv_dtype: KVDtype, device: torch.device, key_channels: Tensor | None
) -> PagedKV:
    def values() -> Tensor:
        return torch.empty(shape, dtype=TORCH_DTYPES[kv_dtype], device=device)

    def scales() -> Tensor | None:
        return torch.empty(shape[:3], device=device) if kv_dtype in _SCALED else None

    return PagedKV(
        keys=values(),
        values=values(),
        key_scales=scales(),
        value_scales=scales(),
        key_channels=key_channels.contiguous()
        if key_channels is not None and kv_dtype == "int8"
        else None,
    )
