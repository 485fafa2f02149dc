"""The states of linear attention layers: one row for each slot, and how many slots fit."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from qcode.engine.layers.cache import DeltaState
from qcode.engine.memory.budget import state_bytes
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.state_pool import StateCopy
from qcode.protocol.errors import OutOfMemory

MAX_SNAPSHOTS = 64
"""More of them would spare little: see how `StatePool` spaces them."""


def plan_state_slots(config: ModelConfig, options: EngineOptions, *, available_bytes: int) -> int:
    """Slots for as many sequences as may run and for snapshots, within the budget that was set or
    an eighth of the free memory, but one at least; 0 for a model without such layers. With fewer
    slots than sequences, fewer run at a time. Raises `OutOfMemory` where not even one fits."""
    slot_bytes = state_bytes(config)
    if not slot_bytes:
        return 0
    if options.state_memory_bytes is None:
        room = max(available_bytes // 8, min(available_bytes, slot_bytes))
    else:
        room = options.state_memory_bytes
    if room < slot_bytes:
        raise OutOfMemory(
            f"the recurrent state of one sequence needs {slot_bytes / 2**20:.2f} MiB; "
            f"{max(room, 0) / 2**20:.2f} MiB are left for it",
            "Free some memory, raise the budget of the states or choose a smaller model.",
        )
    num_snapshots = MAX_SNAPSHOTS if options.prefix_reuse else 0
    return min(options.max_sequences + num_snapshots, room // slot_bytes)


class RecurrentStates:
    """`layers` holds the states of each linear attention layer, by the layer's index.

    On the CPU memory is reserved, not touched: a slot costs nothing before it is used.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`dtype` is that of activations. Raises `OutOfMemory`."""
        self.layers: dict[int, DeltaState] = {}
        linear = config.linear_attention
        if linear is None:
            return
        conv = (num_slots, linear.conv_dim, linear.conv_kernel_size - 1)
        heads = (linear.num_value_heads, linear.key_head_dim, linear.value_head_dim)
        try:
            for index in linear.layers:
                self.layers[index] = DeltaState(
                    conv=torch.empty(conv, dtype=dtype, device=device),
                    recurrent=torch.empty((num_slots, *heads), dtype=torch.float32, device=device),
                )
        except RuntimeError as error:
            size = num_slots * state_bytes(config)
            raise OutOfMemory(
                f"no room for {num_slots} recurrent states of {size / 2**20:.0f} MiB on {device}",
                "Set a smaller number of sequences or free some memory.",
            ) from error

    def copy(self, copies: Iterable[StateCopy]) -> None:
        """In order: a later copy may overwrite an earlier one's source."""
        for item in copies:
            for layer in self.layers.values():
                for states in (layer.conv, layer.recurrent):
                    if item.source is None:
                        states[item.target].zero_()
                    else:
                        states[item.target].copy_(states[item.source])
