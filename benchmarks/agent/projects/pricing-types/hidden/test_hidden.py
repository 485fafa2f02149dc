import unittest

from pricing import parse_price, total


class HiddenTest(unittest.TestCase):
    def test_what_is_no_price_counts_nothing(self):
        self.assertEqual(total(["1.50", "free", "0.05"]), 155)

    def test_it_is_still_told_apart(self):
        self.assertIsNone(parse_price("free"))
        self.assertEqual(parse_price("0"), 0)
