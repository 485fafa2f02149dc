"""Durations as people write them."""


def parse_duration(text):
    """Seconds of "1:02:03", "2:03" or "3"."""
    seconds = 0
    for part in text.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


def format_duration(seconds):
    """90 -> "1:30", 3725 -> "1:02:05"."""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds}"
