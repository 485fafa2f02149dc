"""Numbers as people write them in settings."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from qcode.engine.options import parse_context

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
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


def parse_size(text: str) -> int:
    """Bytes in `10GB`, `500 MB` or `1.5T`, by decimal units; 0 for `off`. Raises ValueError."""
    if text.strip().lower() == "off":
        return 0
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size such as 10GB or 500MB, and not off")
    return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def _size_text(text: str) -> str:
    parse_size(text)
    return text.strip()


def _context_tokens(value: object) -> object:
    """`32768`, `32K` or `1M` in tokens; anything but text is left to the number's own check."""
    return parse_context(value) if isinstance(value, str) else value


PositiveInt = Annotated[int, Field(gt=0)]
ContextTokens = Annotated[int, BeforeValidator(_context_tokens), Field(gt=0)]
SizeText = Annotated[str, AfterValidator(_size_text)]
"""As it was written; `parse_size` says how many bytes that is."""
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
