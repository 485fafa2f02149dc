"""Drives a network step by step, over caches made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState, LayerCache, PagedKV
from qcode.engine.model_config import ModelConfig
from qcode.engine.models.loading import LoadedModel

BLOCK_SIZE = 4
NUM_BLOCKS = 64


def layer_caches(
    config: ModelConfig,
    *,
    num_blocks: int,
    block_size: int,
    num_slots: int,
    dtype: torch.dtype = torch.float32,
) -> list[LayerCache]:
    """A cache for each layer; NaN in keys and values shows any read of what was never written."""
    shape = (num_blocks, config.num_key_value_heads, block_size, config.head_dim)
    linear, caches = config.linear_attention, list[LayerCache]()
    for layer in range(config.num_layers):
        if linear and layer in linear.layers:
            heads = (linear.num_value_heads, linear.key_head_dim, linear.value_head_dim)
            cache = DeltaState(
                conv=torch.zeros(
                    num_slots, linear.conv_dim, linear.conv_kernel_size - 1, dtype=dtype
                ),
                recurrent=torch.zeros(num_slots, *heads),
            )
            caches.append(cache)
        else:
            keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in "kv")
            caches.append(PagedKV(keys=keys, values=values))
    return caches


class PagedRun:
    """Feeds sequences to a model; blocks and states lie in random order."""

    def __init__(
        self,
        loaded: LoadedModel,
        num_sequences: int = 1,
        *,
        num_blocks: int = NUM_BLOCKS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = loaded.model
        self.caches = layer_caches(
            loaded.config,
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            num_slots=num_sequences + 2,
            dtype=dtype,
        )
        generator = torch.Generator().manual_seed(5)
        order = torch.randperm(num_blocks, generator=generator)
        self.block_tables = order.view(num_sequences, -1).int()
        self.state_slots = torch.randperm(num_sequences + 2, generator=generator)
        for cache in self.caches:
            if isinstance(cache, DeltaState):  # rows of nobody
                cache.conv[self.state_slots[num_sequences:]] = torch.nan
                cache.recurrent[self.state_slots[num_sequences:]] = torch.nan
        self.lengths = [0] * num_sequences

    def step(self, tokens: dict[int, Sequence[int]]) -> Tensor:
        """Logits of all rows; `tokens` are the next ones of each sequence in the batch."""
        positions, slots, starts = [], [], [0]
        for sequence, ids in tokens.items():
            first = self.lengths[sequence]
            for position in range(first, first + len(ids)):
                block = int(self.block_tables[sequence, position // BLOCK_SIZE])
                positions.append(position)
                slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
            starts.append(len(positions))
            self.lengths[sequence] = first + len(ids)
        inputs = AttentionInputs(
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts, dtype=torch.int32),
            context_lens=torch.tensor([self.lengths[s] for s in tokens], dtype=torch.int32),
            block_tables=self.block_tables[list(tokens)],
            state_slots=self.state_slots[list(tokens)],
        )
        ids = torch.tensor([token for part in tokens.values() for token in part])
        with torch.inference_mode():
            return self.model.logits(self.model.forward(ids, inputs, self.caches))
