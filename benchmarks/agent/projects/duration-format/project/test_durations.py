import unittest

from durations import format_duration, parse_duration


class DurationTest(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(parse_duration("1:02:05"), 3725)
        self.assertEqual(parse_duration("7"), 7)

    def test_hours(self):
        self.assertEqual(format_duration(3725), "1:02:05")

    def test_minutes(self):
        self.assertEqual(format_duration(90), "1:30")
        self.assertEqual(format_duration(65), "1:05")
