import unittest

from report import summarise


class HiddenTest(unittest.TestCase):
    def test_values(self):
        self.assertEqual(summarise([10]), {"count": 1, "mean": 10, "stdev": 0.0})
        self.assertEqual(summarise([]), {"count": 0, "mean": None, "stdev": None})
