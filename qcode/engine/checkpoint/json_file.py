"""The JSON files beside a checkpoint's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qcode.protocol.errors import CheckpointError

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_VALUES = 4 * 2**20
"""An empty list is three bytes of text and sixty of memory: text that is small enough to read may
still become too much. A tokenizer with a vocabulary of 150 thousand has a million values."""


def read_json(path: Path, *, optional: bool = False) -> Mapping[str, object]:
    """The JSON object in a file; {} where an optional file does not exist.

    Raises CheckpointError.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: too large")
        text = path.read_bytes()
        if holds_too_much(text):
            raise CheckpointError(f"{path}: too many values")
        value = json.loads(text)
    except FileNotFoundError as error:
        if optional:
            return {}
        raise CheckpointError(f"{path}: does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def holds_too_much(text: bytes) -> bool:
    """Whether JSON may have more than MAX_JSON_VALUES values. Marks in strings count too."""
    return sum(map(text.count, (b"[", b"{", b","))) > MAX_JSON_VALUES
