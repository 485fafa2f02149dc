"""Mixtures of experts made from a dense GGUF file, with the same output as the dense model.

Every feed-forward network becomes several experts, in the packed form it has: no value is rounded
anew. So a mixture's text must be the dense model's, whatever way it is stored, paged and routed.

- `repeat_experts`: every expert is a copy of the whole network. The weights of the chosen ones add
  up to one, whichever the router, which is random, chooses.
- `split_experts`: every expert is a part of the network's intermediate rows, and all are chosen.
  The router is zero, so that each has the weight 1 / experts; what the experts give is multiplied
  by their number, a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qcode.engine.checkpoint.gguf import GgufFile, GgufTensor, MetadataValue
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType

SCALE_OFFSETS = {
    GgmlType.Q4_0: (0,),
    GgmlType.Q5_0: (0,),
    GgmlType.Q8_0: (0,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,),
}
"""Where the half-precision factors of a block stand."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A tensor to write; `pieces` are its bytes, made when they are wanted."""

    name: str
    shape: tuple[int, ...]
    kind: GgmlType
    pieces: Callable[[], Iterable[Tensor]]


def repeat_experts(
    source: Path, target: Path, *, num_experts: int, experts_per_token: int = 2
) -> None:
    """Writes `target`: the model of `source` with that many copies of each network."""
    dense = GgufFile(source)
    router = torch.Generator().manual_seed(0)
    parts = []
    for tensor in dense.tensors.values():
        if _is_network(tensor):
            parts.append(_repeated(dense, tensor, num_experts))
        else:
            parts.append(_kept(dense, tensor))
    for layer, hidden in _layers(dense):
        parts.append(_router(layer, torch.randn(num_experts, hidden, generator=router)))
    [width] = {tensor.shape[0] for tensor in dense.tensors.values() if "ffn_up." in tensor.name}
    _write(target, _metadata(dense, num_experts, experts_per_token, width), parts)


def split_experts(source: Path, target: Path, *, num_experts: int) -> None:
    """Writes `target`: the model of `source`, each network cut into that many experts.

    `num_experts` is a power of two. The last expert is filled up with zeros.
    """
    dense = GgufFile(source)
    [rows] = {tensor.shape[0] for tensor in dense.tensors.values() if "ffn_up." in tensor.name}
    block = max(
        BLOCK_LAYOUTS[tensor.ggml_type].block_size
        for tensor in dense.tensors.values()
        if "ffn_down." in tensor.name
    )
    width = -(-rows // (block * num_experts)) * block
    parts = []
    for tensor in dense.tensors.values():
        if not _is_network(tensor):
            parts.append(_kept(dense, tensor))
        elif "ffn_down." in tensor.name:
            parts.append(_split_columns(dense, tensor, num_experts, width))
        else:
            parts.append(_split_rows(dense, tensor, num_experts, width))
    for layer, hidden in _layers(dense):
        parts.append(_router(layer, torch.zeros(num_experts, hidden)))
    _write(target, _metadata(dense, num_experts, num_experts, width), parts)


def _is_network(tensor: GgufTensor) -> bool:
    return any(f".ffn_{part}.weight" in tensor.name for part in ("gate", "up", "down"))


def _layers(dense: GgufFile) -> Iterator[tuple[str, int]]:
    """The prefix of each layer's tensors, and the hidden size."""
    for tensor in dense.tensors.values():
        if tensor.name.endswith(".ffn_up.weight"):
            yield tensor.name.removesuffix("ffn_up.weight"), tensor.shape[1]


def _experts_name(tensor: GgufTensor) -> str:
    return tensor.name.replace(".weight", "_exps.weight")


def _kept(dense: GgufFile, tensor: GgufTensor) -> Part:
    kind = GgmlType(tensor.ggml_type)
    return Part(
        name=tensor.name,
        shape=tensor.shape,
        kind=kind,
        pieces=lambda: [dense.raw(tensor.name)],
    )


def _repeated(dense: GgufFile, tensor: GgufTensor, num_experts: int) -> Part:
    return Part(
        name=_experts_name(tensor),
        shape=(num_experts, *tensor.shape),
        kind=GgmlType(tensor.ggml_type),
        pieces=lambda: (dense.raw(tensor.name) for _ in range(num_experts)),
    )


def _split_rows(dense: GgufFile, tensor: GgufTensor, num_experts: int, width: int) -> Part:
    rows, columns = tensor.shape

    def pieces() -> Iterator[Tensor]:
        whole = dense.raw(tensor.name).view(rows, -1)
        yield whole
        # Zero bytes are the value zero in every type.
        yield torch.zeros(num_experts * width - rows, whole.shape[1], dtype=torch.uint8)

    return Part(
        name=_experts_name(tensor),
        shape=(num_experts, width, columns),
        kind=GgmlType(tensor.ggml_type),
        pieces=pieces,
    )


def _split_columns(dense: GgufFile, tensor: GgufTensor, num_experts: int, width: int) -> Part:
    rows, columns = tensor.shape
    kind = GgmlType(tensor.ggml_type)
    block = BLOCK_LAYOUTS[kind]

    def pieces() -> Iterator[Tensor]:
        blocks = dense.raw(tensor.name).clone().view(rows, -1, block.block_bytes)
        for offset in SCALE_OFFSETS[kind]:
            scale = blocks[..., offset : offset + 2].contiguous().view(torch.float16)
            blocks[..., offset : offset + 2] = (scale * num_experts).view(torch.uint8)
        missing = (num_experts * width - columns) // block.block_size
        filled = torch.cat(
            (blocks, torch.zeros(rows, missing, block.block_bytes, dtype=torch.uint8)), dim=1
        )
        yield from torch.split(filled, width // block.block_size, dim=1)

    return Part(
        name=_experts_name(tensor), shape=(num_experts, rows, width), kind=kind, pieces=pieces
    )


def _router(layer: str, matrix: Tensor) -> Part:
    return Part(
        name=f"{layer}ffn_gate_inp.weight",
        shape=tuple(matrix.shape),
        kind=GgmlType.F32,
        pieces=lambda: [matrix.view(torch.uint8)],
    )


def _metadata(
    dense: GgufFile, num_experts: int, experts_per_token: int, width: int
) -> dict[str, MetadataValue]:
    old = f"{dense.metadata['general.architecture']}."
    metadata = {
        key.replace(old, "qwen3moe.", 1) if key.startswith(old) else key: value
        for key, value in dense.metadata.items()
    }
    return metadata | {
        "general.architecture": "qwen3moe",
        "qwen3moe.expert_count": num_experts,
        "qwen3moe.expert_used_count": experts_per_token,
        "qwen3moe.expert_feed_forward_length": width,
    }


def _write(target: Path, metadata: dict[str, MetadataValue], parts: list[Part]) -> None:
    layout = GgufLayout(metadata, [(part.name, part.shape, part.kind) for part in parts])
    with target.open("wb") as file:
        file.write(layout.header)
        for part in parts:
            file.seek(layout.tensors[part.name].offset)
            for piece in part.pieces():
                file.write(np.ascontiguousarray(piece.numpy()).data)
        file.truncate(layout.num_bytes)
