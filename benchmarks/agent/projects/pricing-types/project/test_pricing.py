import unittest

from pricing import parse_price, shown, total


class PricingTest(unittest.TestCase):
    def test_a_price_is_read(self):
        self.assertEqual(parse_price("12.50"), 1250)

    def test_prices_are_added(self):
        self.assertEqual(shown(total(["1.50", "2"])), "3.50")
