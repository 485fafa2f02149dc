"""Notes kept by name."""


class NoteStore:
    def __init__(self):
        self._notes = {}

    def put(self, name, text, *, author):
        """Every note has an author since the last release."""
        self._notes[name] = (text, author)

    def get(self, name):
        """The text and the author."""
        return self._notes[name]

    def names(self):
        return sorted(self._notes)
