"""Waiting times between retries: they double up to a limit."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 3.0
MAX_ATTEMPTS = 5


def wait_before(attempt):
    """Seconds to wait before an attempt; the first attempt does not wait."""
    if attempt <= 1:
        return 0.0
    return min(FIRST_WAIT_S * 2 ** (attempt - 2), LONGEST_WAIT_S)


def schedule():
    return [wait_before(attempt) for attempt in range(1, MAX_ATTEMPTS + 1)]
