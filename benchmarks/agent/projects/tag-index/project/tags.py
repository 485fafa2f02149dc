"""Notes and their tags."""


class Note:
    def __init__(self, title, tags=[]):
        self.title = title
        self.tags = tags

    def add_tag(self, tag):
        tag = tag.strip().lower()
        if tag and tag not in self.tags:
            self.tags.append(tag)

    def has_tag(self, tag):
        return tag.strip().lower() in self.tags


def by_tag(notes):
    """Titles grouped by tag."""
    index = {}
    for note in notes:
        for tag in note.tags:
            index.setdefault(tag, []).append(note.title)
    return index
