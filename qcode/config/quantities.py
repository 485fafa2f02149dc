"""Numbers as people write them in settings."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from qcode.engine.options import parse_context

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}


def parse_duration(value: object) -> object:
    """`90`, `30s`, `5m` or `1h` in seconds; anything but text is left to the number's own check."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a duration such as 90, 30s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def _context_tokens(value: object) -> object:
    """`32768`, `32K` or `1M` in tokens; anything but text is left to the number's own check."""
    return parse_context(value) if isinstance(value, str) else value


PositiveInt = Annotated[int, Field(gt=0)]
ContextTokens = Annotated[int, BeforeValidator(_context_tokens), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
