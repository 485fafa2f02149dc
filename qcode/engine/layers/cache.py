"""What a layer remembers of the tokens before, for all sequences of the engine.

A full attention layer keeps keys and values of every token, in blocks; a linear attention layer
keeps one state of constant size for each sequence. A network is given one cache for each of its
layers, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class PagedKV:
    """Keys and values [num_blocks, Hkv, block_size, D]; a slot is block * block_size + offset.

    float8 and int8 values have a float32 scale for each slot and head, [num_blocks, Hkv,
    block_size]: what is stored times its scale is the key or value. With `key_channels` [Hkv, D]
    float32, keys are stored divided by them.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    key_channels: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaState:
    """The states of one Gated DeltaNet layer; row `state_slots[b]` is that of sequence b.

    Whoever owns the states zeroes a row before the first token of a sequence.
    """

    conv: Tensor
    """[num_slots, conv_dim, conv_kernel_size - 1] the last inputs of the convolution, oldest
    first, in the dtype of the activations."""
    recurrent: Tensor
    """[num_slots, Hv, key_head_dim, value_head_dim] float32."""


LayerCache: TypeAlias = PagedKV | DeltaState
