import unittest

from tags import Note, by_tag


class NoteTest(unittest.TestCase):
    def test_tags_are_not_shared(self):
        first = Note("first")
        first.add_tag("Red")
        second = Note("second")
        self.assertEqual(second.tags, [])
        self.assertTrue(first.has_tag("red"))

    def test_index(self):
        notes = [Note("a", ["x", "y"]), Note("b", ["y"])]
        self.assertEqual(by_tag(notes), {"x": ["a"], "y": ["a", "b"]})
