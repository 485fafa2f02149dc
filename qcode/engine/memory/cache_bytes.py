"""What caches hold, as bytes: a block of keys and values, or the recurrent states of one slot.

What the tensors mean does not matter here, only that a block's rows lie together and that the same
shapes come back: `layout` tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcode.engine.memory.kv_cache import KVCache
from qcode.engine.memory.recurrent_state import RecurrentStates

Bytes = NDArray[np.uint8]


class RowBytes:
    """Rows of several tensors [R, ...], seen as [R, row_bytes]: row r of the first tensor, then
    row r of the second, and so on."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._rows = [_as_bytes(tensor) for tensor in tensors]
        self.layout = [(str(tensor.dtype), list(tensor.shape[1:])) for tensor in tensors]
        self.row_bytes = sum(rows.shape[1] for rows in self._rows)

    def read(self, rows: Sequence[int]) -> Bytes:
        """[len(rows), row_bytes], a copy."""
        out = np.empty((len(rows), self.row_bytes), np.uint8)
        start = 0
        for source in self._rows:
            stop = start + source.shape[1]
            out[:, start:stop] = _take(source, rows)
            start = stop
        return out

    def write(self, rows: Sequence[int], data: Bytes) -> None:
        """`data` is [len(rows), row_bytes]."""
        start = 0
        for target in self._rows:
            stop = start + target.shape[1]
            _put(target, rows, data[:, start:stop])
            start = stop


def block_bytes(cache: KVCache) -> RowBytes:
    """A row is a block: the keys and values of each layer, with their scales."""
    tensors = [
        tensor
        for layer in cache.layers
        for tensor in (layer.keys, layer.values, layer.key_scales, layer.value_scales)
        if tensor is not None
    ]
    return RowBytes(tensors)


def state_bytes(states: RecurrentStates) -> RowBytes:
    """A row is a slot: the states of each linear attention layer."""
    layers = states.layers.values()
    return RowBytes([tensor for layer in layers for tensor in (layer.conv, layer.recurrent)])


def _as_bytes(tensor: Tensor) -> Tensor:
    assert tensor.is_contiguous()
    return tensor.view(tensor.shape[0], -1).view(torch.uint8)


def _take(source: Tensor, rows: Sequence[int]) -> Bytes:
    if source.device.type == "cpu":
        # Through numpy, whose copies start no threads beside those of the engine.
        return source.numpy()[_index(rows)]
    return source[torch.tensor(rows, device=source.device)].cpu().numpy()


def _put(target: Tensor, rows: Sequence[int], data: Bytes) -> None:
    if target.device.type == "cpu":
        target.numpy()[_index(rows)] = data
    else:
        index = torch.tensor(rows, device=target.device)
        target[index] = torch.from_numpy(data).to(target.device)


def _index(rows: Sequence[int]) -> slice | list[int]:
    """Consecutive rows are copied at once."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return slice(first, first + len(rows))
    return list(rows)
