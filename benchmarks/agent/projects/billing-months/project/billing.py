"""When a subscription is billed."""

import calendar
from datetime import date


def add_months(day, months):
    """The same day some months later; the last of the month where there is no such day."""
    month = day.month + months
    year = day.year + month // 12
    month = month % 12
    last = calendar.monthrange(year, month)[1]
    return date(year, month, min(day.day, last))


def billing_days(start, count):
    """The first `count` days on which it is billed, `start` among them."""
    return [add_months(start, number) for number in range(count)]
