"""Notes as text."""


def report(store):
    """One line a note: `name by author: TEXT in capitals`."""
    lines = []
    for name in store.names():
        text = store.get(name)
        lines.append(f"{name}: {text.upper()}")
    return "\n".join(lines)
