import unittest

from durations import format_duration


class HiddenTest(unittest.TestCase):
    def test_edges(self):
        self.assertEqual(format_duration(0), "0:00")
        self.assertEqual(format_duration(599), "9:59")
        self.assertEqual(format_duration(600), "10:00")
        self.assertEqual(format_duration(7200), "2:00:00")
