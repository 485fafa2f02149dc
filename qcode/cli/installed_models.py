"""The user's model store, and the path behind a model's name."""

from __future__ import annotations

import os
from pathlib import Path

from qcode.config.locations import Locations
from qcode.engine.store.model_catalogue import catalogue_entry
from qcode.engine.store.model_store import ModelStore
from qcode.protocol.errors import ModelStoreError


def user_store() -> ModelStore:
    return ModelStore(Locations.from_environment(os.environ).models)


def installed_path(name: str) -> Path:
    """What the engine loads for a name or path. Raises ModelStoreError."""
    path = user_store().resolve(name)
    if path is not None:
        return path
    if catalogue_entry(name) is not None:
        raise ModelStoreError(
            f"No model {name!r} is installed.", f"Fetch it: qcode model pull {name}"
        )
    if name.endswith(".gguf"):
        raise ModelStoreError(f"There is no file {name}.", "See: qcode model list")
    if Path(name).is_dir():
        raise ModelStoreError(
            f"{name} is not a checkpoint: it has no config.json.",
            "Give a .gguf file, or a folder with config.json and .safetensors files.",
        )
    raise ModelStoreError(f"No model {name!r} is installed.", "See: qcode model list")
