from cart import Cart


def filled():
    cart = Cart()
    cart.add("tea", 4.50, 2)
    cart.add("cup", 11.00)
    return cart


def test_subtotal():
    assert filled().subtotal() == 20.00


def test_total_without_discount():
    assert filled().total() == 20.00


def test_total_with_discount():
    assert filled().total(discount_percent=10) == 18.00
