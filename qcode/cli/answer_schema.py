"""The value of `--json-schema`: a schema typed out, or the file that holds one."""

from __future__ import annotations

import json
from pathlib import Path

from qcode.protocol.errors import BadInput

MAX_BYTES = 4 << 20


def read_schema(value: str) -> dict[str, object]:
    """`{...}`, `FILE` or `@FILE`. Raises `BadInput`. That it is a schema is not looked at."""
    if value.lstrip().startswith("{"):
        return _object(value, "--json-schema")
    file = Path(value.removeprefix("@"))
    if file.exists() and not file.is_file():
        raise BadInput(f"--json-schema: {file} is not a regular file.")
    try:
        data = file.read_bytes()
        if len(data) > MAX_BYTES:
            raise BadInput(f"--json-schema: {file} is longer than {MAX_BYTES >> 20} MiB.")
        return _object(data.decode("utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--json-schema: {file} cannot be read: {error}.",
            'Give a file, or the schema itself: --json-schema \'{"type": "object", ...}\'',
        ) from error


def _object(text: str, place: str) -> dict[str, object]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place} is not JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise BadInput(f"{place} is no JSON Schema: that is an object.")
    return schema
