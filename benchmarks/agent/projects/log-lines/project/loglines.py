"""Parse lines such as `2024-05-01 12:30:00 ERROR disk: no space left`."""

import re

LINE = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2}) (?P<time>\d{2}:\d{2}:\d{2}) "
    r"(?P<level>[A-Z]+) (?P<source>\w+): (?P<message>\w+)"
)


def parse_line(line):
    """The parts of one log line as a dict, or None if it is not a log line."""
    match = LINE.match(line)
    return match.groupdict() if match else None


def count_levels(lines):
    counts = {}
    for line in lines:
        entry = parse_line(line)
        if entry:
            counts[entry["level"]] = counts.get(entry["level"], 0) + 1
    return counts
