"""The JSON files beside a checkpoint's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qcode.protocol.errors import CheckpointError

MAX_JSON_BYTES = 64 * 2**20


def read_json(path: Path, *, optional: bool = False) -> Mapping[str, object]:
    """The JSON object in a file; {} where an optional file does not exist.

    Raises CheckpointError.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: too large")
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if optional:
            return {}
        raise CheckpointError(f"{path}: does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
