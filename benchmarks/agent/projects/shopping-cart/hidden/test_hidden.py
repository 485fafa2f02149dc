import pytest
from cart import Cart


@pytest.mark.parametrize(("percent", "expected"), [(0, 80.0), (25, 60.0), (100, 0.0), (12.5, 70.0)])
def test_discounts(percent, expected):
    cart = Cart()
    cart.add("chair", 40.0, 2)
    assert cart.total(discount_percent=percent) == expected
