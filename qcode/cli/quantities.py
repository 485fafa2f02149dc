"""Bytes, counts and windows as people read them."""

from __future__ import annotations


def bytes_text(num_bytes: int) -> str:
    """Decimal units, as disks and model hubs count: 491 MB, 18.6 GB."""
    if num_bytes >= 10**12:
        return f"{num_bytes / 10**12:.2f} TB"
    if num_bytes >= 10**9:
        return f"{num_bytes / 10**9:.1f} GB"
    if num_bytes >= 10**6:
        return f"{num_bytes / 10**6:.0f} MB"
    return f"{num_bytes / 10**3:.0f} kB"


def count_text(count: int) -> str:
    """Parameters: 494 M, 30.5 B."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} B"
    if count >= 10**6:
        return f"{count / 10**6:.0f} M"
    return f"{count / 10**3:.0f} k"


def window_text(num_tokens: int) -> str:
    """Tokens of a context: 32K, 256K, 1M where it is a round number, else with commas."""
    if num_tokens >= 2**20 and num_tokens % 2**20 == 0:
        return f"{num_tokens // 2**20}M"
    if num_tokens >= 2**10 and num_tokens % 2**10 == 0:
        return f"{num_tokens // 2**10}K"
    return f"{num_tokens:,}"
