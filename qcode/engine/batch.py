"""The tensors of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.scheduling.scheduler import Scheduled


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """N tokens of B sequences. `sampled_rows` [R] int64 are the rows whose logits are wanted: of
    every sequence that has no token left to compute, its last token's and its draft's."""

    ids: Tensor
    inputs: AttentionInputs
    sampled_rows: Tensor


def build_batch(scheduled: Sequence[Scheduled], block_size: int, device: torch.device) -> Batch:
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    query_starts = [0]
    context_lens: list[int] = []
    sampled_rows: list[int] = []
    for item in scheduled:
        sequence = item.sequence
        start = sequence.num_computed_tokens
        stop = start + item.num_tokens
        ids.extend(sequence.tokens[start:stop])
        ids.extend(item.draft)
        positions.extend(range(start, stop))
        slots.extend(
            sequence.blocks[position // block_size] * block_size + position % block_size
            for position in range(start, stop)
        )
        query_starts.append(len(ids))
        context_lens.append(stop)
        if item.is_sampled:
            sampled_rows.extend(range(len(ids) - 1 - len(item.draft), len(ids)))
    inputs = AttentionInputs(
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        slots=torch.tensor(slots, dtype=torch.int64, device=device),
        query_starts=torch.tensor(query_starts, dtype=torch.int32, device=device),
        context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
        block_tables=torch.tensor(_padded(scheduled), dtype=torch.int32, device=device),
        state_slots=_state_slots(scheduled, device),
    )
    return Batch(
        ids=torch.tensor(ids, dtype=torch.int64, device=device),
        inputs=inputs,
        sampled_rows=torch.tensor(sampled_rows, dtype=torch.int64, device=device),
    )


def _padded(scheduled: Sequence[Scheduled]) -> list[list[int]]:
    width = max(len(item.sequence.blocks) for item in scheduled)
    return [item.sequence.blocks + [0] * (width - len(item.sequence.blocks)) for item in scheduled]


def _state_slots(scheduled: Sequence[Scheduled], device: torch.device) -> Tensor | None:
    """None where no sequence has a slot, that is where the model has no recurrent states."""
    slots = [item.sequence.state_slot for item in scheduled if item.sequence.state_slot is not None]
    return torch.tensor(slots, dtype=torch.int64, device=device) if slots else None
