"""A hybrid network whose memory can be checked by hand.

The state of a linear layer is a running checksum of the tokens it saw, and an attention layer
keeps each token as its key. The next token follows from both, so that a state of another
sequence, of another position or not zeroed, or a key that was never written, shows in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState, LayerCache, PagedKV
from qcode.engine.model_config import LinearAttentionConfig
from qcode.engine.models.loading import LoadedModel

LINEAR = LinearAttentionConfig(
    num_key_heads=1,
    num_value_heads=1,
    key_head_dim=1,
    value_head_dim=1,
    conv_kernel_size=4,
    layers=frozenset({0, 1, 3}),
)
MODULUS = 65521
"""Small enough for float32 to hold every product exactly."""
NUM_ANSWER_TOKENS = 256
"""Tokens an answer is made of: no end token is among them."""


class ChecksumNetwork:
    """Layers 0, 1 and 3 are linear, layer 2 has attention."""

    key_channels = ()

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        """ids [N] int64 -> [N, 1] float32, the token that follows each."""
        assert inputs.state_slots is not None
        starts = inputs.query_starts.tolist()
        slots = inputs.state_slots.tolist()
        assert len(slots) == len(set(slots)) == len(starts) - 1
        following = torch.zeros(len(ids), 1)
        for index, cache in enumerate(caches):
            is_linear = index in LINEAR.layers
            assert isinstance(cache, DeltaState if is_linear else PagedKV)
            for b, slot in enumerate(slots):
                rows = slice(starts[b], starts[b + 1])
                tokens = ids[rows].tolist()
                if isinstance(cache, DeltaState):
                    sums = self._advance(cache, slot, tokens, index)
                else:
                    sums = self._attend(cache, inputs, b, rows, tokens)
                following[rows, 0] += torch.tensor(sums, dtype=torch.float32)
        return following % NUM_ANSWER_TOKENS

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), 400)
        logits[torch.arange(len(hidden)), hidden[:, 0].long()] = 10.0
        return logits

    @staticmethod
    def _advance(cache: DeltaState, slot: int, tokens: list[int], layer: int) -> list[int]:
        checksum, sums = int(cache.recurrent[slot].item()), []
        for token in tokens:
            checksum = carry_on(checksum, token, layer)
            sums.append(checksum)
        cache.recurrent[slot] = float(checksum)
        return sums

    @staticmethod
    def _attend(
        cache: PagedKV, inputs: AttentionInputs, b: int, rows: slice, tokens: list[int]
    ) -> list[int]:
        keys = cache.keys[:, 0, :, 0]
        slots, block_size = inputs.slots[rows], keys.shape[1]
        keys[slots // block_size, slots % block_size] = torch.tensor(tokens, dtype=keys.dtype)
        length = int(inputs.context_lens[b])
        context = keys[inputs.block_tables[b].long()].flatten()[:length].long()
        weights = 1 + torch.arange(length) % 97
        sums = torch.cumsum(context * weights, 0) % MODULUS
        return sums[length - len(tokens) :].tolist()


def carry_on(checksum: int, token: int, layer: int) -> int:
    return (checksum * 31 + token + layer + 1) % MODULUS


def expected_answer(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What `ChecksumNetwork` answers to a prompt, from its definition."""
    checksums, attended = dict.fromkeys(LINEAR.layers, 0), 0
    answer: list[int] = []
    position = 0
    while len(answer) < num_tokens:
        token = prompt[position] if position < len(prompt) else answer[position - len(prompt)]
        for layer in checksums:
            checksums[layer] = carry_on(checksums[layer], token, layer)
        attended = (attended + token * (1 + position % 97)) % MODULUS
        position += 1
        if position >= len(prompt):
            answer.append((sum(checksums.values()) + attended) % NUM_ANSWER_TOKENS)
    return answer


def with_checksum_network(loaded: LoadedModel, context_window: int) -> LoadedModel:
    """The network in place of that of a random checkpoint, whose tokenizer it keeps."""
    config = replace(
        loaded.config,
        num_layers=4,
        num_key_value_heads=1,
        head_dim=1,
        context_window=context_window,
        linear_attention=LINEAR,
    )
    return replace(loaded, model=ChecksumNetwork(), config=config)
