"""Split long result lists into pages. Pages are numbered from 1."""

DEFAULT_PAGE_SIZE = 10


def page_count(total_items, page_size=DEFAULT_PAGE_SIZE):
    """How many pages are needed to show every item."""
    if page_size <= 0:
        raise ValueError("page_size must be positive")
    return total_items // page_size + 1


def page_items(items, page, page_size=DEFAULT_PAGE_SIZE):
    """The items shown on one page."""
    if page < 1 or page > max(1, page_count(len(items), page_size)):
        raise IndexError(f"no page {page}")
    start = (page - 1) * page_size
    return items[start : start + page_size]


def page_label(page, total_items, page_size=DEFAULT_PAGE_SIZE):
    return f"page {page} of {page_count(total_items, page_size)}"
