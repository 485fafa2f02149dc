"""Nested lists."""


def flatten(items):
    """[1, [2, [3]]] -> [1, 2, 3]."""
    flat = []
    for item in items:
        if isinstance(item, list):
            flat.extend(flatten(item))
        else:
            flat.append(item)
    return flat


def depth(items):
    """How deep the lists are nested: [] and [1] are 1 deep, [[1]] is 2 deep."""
    if not isinstance(items, list):
        return 1
    return 1 + max((depth(item) for item in items), default=0)
