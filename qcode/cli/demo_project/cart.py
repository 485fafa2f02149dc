"""A shopping cart. Prices are whole cents."""

from dataclasses import dataclass, field


@dataclass
class Line:
    name: str
    price_cents: int
    quantity: int = 1


def discount_percent(total_cents: int) -> int:
    """10 % off from 100.00 on, 5 % off from 50.00 on, otherwise nothing."""
    if total_cents > 10_000:
        return 10
    if total_cents > 5_000:
        return 5
    return 0


@dataclass
class Cart:
    lines: list[Line] = field(default_factory=list)

    def add(self, name: str, price_cents: int, quantity: int = 1) -> None:
        self.lines.append(Line(name, price_cents, quantity))

    def total_cents(self) -> int:
        total = sum(line.price_cents * line.quantity for line in self.lines)
        return total - total * discount_percent(total) // 100
