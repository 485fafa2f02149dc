import unittest

from playlist import Playlist


class PlaylistTest(unittest.TestCase):
    def setUp(self):
        self.playlist = Playlist()
        self.playlist.add("Overture", 187)
        self.playlist.add("Waltz", 95)

    def test_length_is_minutes_and_seconds(self):
        self.assertEqual(self.playlist.length(), "4:42")

    def test_a_removed_song_is_gone(self):
        self.playlist.remove("Waltz")
        self.assertEqual([song.title for song in self.playlist.songs], ["Overture"])


if __name__ == "__main__":
    unittest.main()
