"""The file names of a model that is split into several GGUF files: NAME-00002-of-00005.gguf."""

from __future__ import annotations

import re

MAX_PARTS = 99_999
"""As many as the names can count."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def split_part_names(name: str) -> tuple[str, ...]:
    """The names of all parts, in order, if `name` is that of one of them; else none."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return ()
    count = int(match["count"])
    return tuple(f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1))
