from datetime import date

from billing import add_months, billing_days


def test_a_short_month_ends_earlier():
    assert add_months(date(2024, 1, 31), 1) == date(2024, 2, 29)


def test_december_is_a_month_too():
    days = billing_days(date(2024, 11, 30), 3)
    assert days == [date(2024, 11, 30), date(2024, 12, 30), date(2025, 1, 30)]
