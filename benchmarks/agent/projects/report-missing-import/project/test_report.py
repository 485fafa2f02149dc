import json
import tempfile
import unittest
from pathlib import Path

from report import summarise, write_report


class ReportTest(unittest.TestCase):
    def test_empty(self):
        self.assertEqual(summarise([])["count"], 0)

    def test_summary(self):
        summary = summarise([2, 4, 4, 4, 5, 5, 7, 9])
        self.assertEqual(summary, {"count": 8, "mean": 5, "stdev": 2.0})

    def test_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out.json"
            write_report(path, [1, 3])
            self.assertEqual(json.loads(path.read_text())["mean"], 2)


if __name__ == "__main__":
    unittest.main()
