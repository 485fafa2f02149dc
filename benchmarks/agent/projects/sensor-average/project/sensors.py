"""Readings of sensors."""


def valid(readings):
    """Without the readings of a broken sensor, which are negative."""
    return (value for value in readings if value >= 0)


def summary(readings):
    """Count, mean and highest of the valid readings; zeros where there is none."""
    good = valid(readings)
    count = sum(1 for _ in good)
    if count == 0:
        return {"count": 0, "mean": 0, "highest": 0}
    return {"count": count, "mean": sum(good) / count, "highest": max(good, default=0)}
