"""Writes a model's packed weights to a file, for the next start to map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint, Residency
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.checkpoint.packed_file import PackedFile
from qcode.engine.kernels.library import installed
from qcode.engine.models.loading import network_class
from qcode.engine.options import PackedWeightsOptions
from qcode.engine.store.packed_models import packed_place, write_to
from qcode.protocol.errors import CheckpointError, ModelStoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """A file of packed weights; `is_new` if it was not there before."""

    path: Path
    num_bytes: int
    is_new: bool


def pack_model(
    model: Path,
    options: PackedWeightsOptions,
    *,
    beside: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> PackedModel:
    """Pack the weights of a GGUF file, one matrix at a time: `beside` it, or where they belong.
    A file that is there is read whole first, and stays if all of it is right.

    Raises CheckpointError, UnsupportedModel, and ModelStoreError for a model that has no packed
    form here and a file that cannot be written.
    """
    library = installed()
    if library is None:
        raise ModelStoreError(
            "Weights are packed for compiled kernels, and there are none here.",
            "See: qcode doctor",
        )
    checkpoint = open_checkpoint(model)
    if not isinstance(checkpoint, GgufCheckpoint):
        raise ModelStoreError("Only GGUF files have packed weights.")
    place = packed_place(checkpoint.path, library, options)
    if place is None:
        raise ModelStoreError(f"{model}: the file cannot be read.")
    target = place.beside if beside else place.target
    if target is None:
        raise ModelStoreError(f"{model}: there is no place for its packed weights.")
    if target.exists():
        try:
            present = PackedFile(target, layout=place.layout, source=place.source)
            done = 0
            for num_bytes in present.verify():
                done += num_bytes
                progress(done / present.num_bytes)
            return PackedModel(path=target, num_bytes=present.num_bytes, is_new=False)
        except CheckpointError:
            target.unlink(missing_ok=True)
    checkpoint.residency = Residency.NONE
    network_class(checkpoint.config)(
        checkpoint, dtype=torch.float32, device=torch.device("cpu"), progress=None
    )
    if not checkpoint.packable:
        raise ModelStoreError(f"{model}: the kernels multiply its weights as they are stored.")
    is_new = write_to(place, target, checkpoint.packable, library, progress)
    return PackedModel(path=target, num_bytes=target.stat().st_size, is_new=is_new)
