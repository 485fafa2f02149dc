"""The key and value tensors of every layer, in blocks, and how many of them fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qcode.engine.block_pool import BlockCopy
from qcode.engine.layers.cache import PagedKV
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions
from qcode.protocol.errors import OutOfMemory

MIN_USEFUL_TOKENS = 2048
"""A cache for less than this, where the model could do more, is an error and not a setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCachePlan:
    """`context_window` is the most tokens one sequence may hold; the blocks hold at least that."""

    num_blocks: int
    context_window: int


def plan_kv_cache(
    config: ModelConfig, options: EngineOptions, *, dtype: torch.dtype, available_bytes: int
) -> KVCachePlan:
    """Room for two whole context windows within a quarter of the free memory, or for as many as
    sequences may run within the budget that was set. Raises `OutOfMemory`."""
    window = min(options.context_window or config.context_window, config.context_window)
    block_bytes = options.block_size * bytes_per_token(config, dtype)
    if options.kv_memory_bytes is None:
        budget, num_windows = available_bytes // 4, 2
    else:
        budget, num_windows = options.kv_memory_bytes, options.max_sequences
    blocks_per_window = -(-window // options.block_size)
    num_blocks = min(num_windows * blocks_per_window, budget // block_bytes)
    num_tokens = num_blocks * options.block_size
    if num_tokens < min(window, MIN_USEFUL_TOKENS):
        raise OutOfMemory(
            f"the key and value cache needs {block_bytes / options.block_size / 1024:.0f} KiB "
            f"a token; {budget / 2**20:.0f} MiB hold {num_tokens} tokens only",
            "Free some memory, raise the cache's budget or choose a smaller model.",
        )
    return KVCachePlan(num_blocks=num_blocks, context_window=min(window, num_tokens))


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of all layers."""
    return 2 * config.num_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize


class KVCache:
    """`layers` holds, for each layer, keys and values [num_blocks, block_size, Hkv, D].

    On the CPU memory is reserved, not touched: the operating system backs a block when it is
    first written, so a large cache costs what is used of it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Raises `OutOfMemory`."""
        shape = (num_blocks, block_size, config.num_key_value_heads, config.head_dim)
        try:
            self.layers: list[PagedKV] = [
                PagedKV(
                    keys=torch.empty(shape, dtype=dtype, device=device),
                    values=torch.empty(shape, dtype=dtype, device=device),
                )
                for _ in range(config.num_layers)
            ]
        except RuntimeError as error:
            size = num_blocks * block_size * bytes_per_token(config, dtype)
            raise OutOfMemory(
                f"no room for the key and value cache of {size / 2**20:.0f} MiB on {device}",
                "Set a smaller context window or cache budget.",
            ) from error

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """In order: a later copy may overwrite an earlier one's source."""
        for item in copies:
            for layer in self.layers:
                for cache in (layer.keys, layer.values):
                    cache[item.target, : item.num_slots] = cache[item.source, : item.num_slots]
