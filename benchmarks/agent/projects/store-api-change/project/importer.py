"""Notes from lines of `name: author: text`."""


def import_lines(store, lines):
    """Puts each line's note into the store; returns how many there were."""
    count = 0
    for line in lines:
        name, author, text = (part.strip() for part in line.split(":", 2))
        store.put(name, text)
        count += 1
    return count
