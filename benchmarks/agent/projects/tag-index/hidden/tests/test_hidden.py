import unittest

from tags import Note


class HiddenTest(unittest.TestCase):
    def test_three_notes(self):
        notes = [Note(str(number)) for number in range(3)]
        for note in notes:
            note.add_tag(note.title)
        self.assertEqual([note.tags for note in notes], [["0"], ["1"], ["2"]])

    def test_given_tags_are_kept(self):
        self.assertEqual(Note("n", ["a", "b"]).tags, ["a", "b"])
