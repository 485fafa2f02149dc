"""Opens a checkpoint, whatever its format, as weights under one set of names."""

from __future__ import annotations

from pathlib import Path

import torch

from qcode.engine.checkpoint.gguf import MAGIC
from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.protocol.errors import CheckpointError, UnsupportedModel


def open_checkpoint(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    exact: bool = False,
) -> SafetensorsCheckpoint | GgufCheckpoint:
    """A GGUF file, or a directory with `config.json` and safetensors files.

    `exact` asks for products in float32 maths where faster ones would round their input.
    Chosen by content, not by name. Raises CheckpointError, UnsupportedModel.
    """
    place = torch.device(device)
    if path.is_dir():
        return SafetensorsCheckpoint(path, dtype, place)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
    if magic == MAGIC:
        return GgufCheckpoint(path, dtype, place, exact=exact)
    raise UnsupportedModel(
        f"{path}: not a model the engine can read",
        hint="Give a .gguf file, or a directory with config.json and .safetensors files.",
    )
