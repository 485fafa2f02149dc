from datetime import date

from billing import add_months


def test_over_several_years():
    assert add_months(date(2023, 12, 15), 12) == date(2024, 12, 15)
    assert add_months(date(2023, 1, 15), 35) == date(2025, 12, 15)
    assert add_months(date(2024, 6, 1), 0) == date(2024, 6, 1)
