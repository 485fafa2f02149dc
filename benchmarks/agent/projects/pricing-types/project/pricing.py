"""Prices in cents."""

from __future__ import annotations


def parse_price(text: str) -> int | None:
    """`12.50` -> 1250; None for what is no price."""
    whole, _, cents = text.partition(".")
    if not whole.isdigit() or (cents and not cents.isdigit()):
        return None
    return int(whole) * 100 + int((cents + "00")[:2])


def total(texts: list[str]) -> int:
    """The sum in cents; what is no price counts nothing."""
    return sum(parse_price(text) for text in texts)


def shown(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
