import unittest

from cart import Cart, discount_percent


class DiscountTest(unittest.TestCase):
    def test_small_orders_pay_in_full(self):
        self.assertEqual(discount_percent(4_999), 0)

    def test_discount_starts_at_the_threshold(self):
        self.assertEqual(discount_percent(10_000), 10)

    def test_large_orders_are_cheaper(self):
        self.assertEqual(discount_percent(12_500), 10)


class CartTest(unittest.TestCase):
    def test_total_counts_quantities(self):
        cart = Cart()
        cart.add("pen", 150, quantity=3)
        cart.add("book", 1_250)
        self.assertEqual(cart.total_cents(), 1_700)


if __name__ == "__main__":
    unittest.main()
