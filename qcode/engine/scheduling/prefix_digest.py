"""The name of a prefix: a digest that is chained from block to block, so that each is of all
tokens before it."""

from __future__ import annotations

import hashlib
from array import array

ROOT = b""
"""The digest of no tokens."""
DIGEST_BYTES = 16


def digest_of(parent: bytes, tokens: list[int]) -> bytes:
    """Of a prefix with digest `parent` and the tokens that follow it."""
    data = parent + array("q", tokens).tobytes()
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
