"""Half-open ranges of hours: the start belongs to the range, the end does not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HourRange:
    start: int
    end: int

    def __post_init__(self):
        if self.end < self.start:
            raise ValueError("a range cannot end before it starts")

    @property
    def hours(self):
        return self.end - self.start

    def contains(self, hour):
        return self.start <= hour < self.end

    def overlaps(self, other):
        """True if some hour belongs to both ranges."""
        return self.start <= other.end and other.start <= self.end


def free_of_conflicts(ranges):
    ordered = sorted(ranges, key=lambda item: item.start)
    return not any(a.overlaps(b) for a, b in zip(ordered, ordered[1:]))
