"""Lays out safetensors files: the counterpart of `safetensors`.

The tensors of a model are shared out among shards of at most 5 GB, the size that hubs and file
systems are comfortable with. Format: the safetensors README.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from qcode.engine.checkpoint.safetensors import DTYPES, SafetensorsTensor

SHARD_BYTES = 5 * 10**9
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsShard:
    """One file: `header` opens it; each of `tensors` begins at its `offset`."""

    name: str
    header: bytes
    tensors: Mapping[str, SafetensorsTensor]
    num_bytes: int


def lay_out_shards(
    tensors: Sequence[tuple[str, tuple[int, ...], str]], shard_bytes: int = SHARD_BYTES
) -> list[SafetensorsShard]:
    """`tensors` are (name, shape, dtype as safetensors spells it); their order is kept by shard."""
    parts: list[list[tuple[str, tuple[int, ...], str]]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        _, shape, dtype = tensor
        num_bytes = prod(shape) * DTYPES[dtype].itemsize
        if num_bytes > room and parts[-1]:
            parts.append([])
            room = shard_bytes
        parts[-1].append(tensor)
        room -= num_bytes
    if len(parts) == 1:
        return [_shard("model.safetensors", parts[0])]
    return [
        _shard(f"model-{number:05}-of-{len(parts):05}.safetensors", part)
        for number, part in enumerate(parts, start=1)
    ]


def shard_index(shards: Sequence[SafetensorsShard]) -> str:
    """The content of `model.safetensors.index.json`."""
    sizes = [tensor.num_bytes for shard in shards for tensor in shard.tensors.values()]
    weight_map = {name: shard.name for shard in shards for name in shard.tensors}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    return json.dumps(index, indent=2) + "\n"


def _shard(name: str, tensors: list[tuple[str, tuple[int, ...], str]]) -> SafetensorsShard:
    # Wide dtypes first: then every tensor lies at a multiple of its dtype's size.
    ordered = sorted(tensors, key=lambda tensor: -DTYPES[tensor[2]].itemsize)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    sizes, position = [], 0
    for tensor_name, shape, dtype in ordered:
        num_bytes = prod(shape) * DTYPES[dtype].itemsize
        span = [position, position + num_bytes]
        entries[tensor_name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        sizes.append((position, num_bytes))
        position += num_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // _HEADER_ALIGNMENT) * _HEADER_ALIGNMENT)
    start = 8 + len(text)
    placed = {
        tensor_name: SafetensorsTensor(
            name=tensor_name, dtype=dtype, shape=shape, offset=start + at, num_bytes=num_bytes
        )
        for (tensor_name, shape, dtype), (at, num_bytes) in zip(ordered, sizes, strict=True)
    }
    return SafetensorsShard(
        name=name,
        header=len(text).to_bytes(8, "little") + text,
        tensors=placed,
        num_bytes=start + position,
    )
