"""Turn measurements into a small JSON report."""

import json
from pathlib import Path


def summarise(values):
    """Count, mean and spread of the values."""
    values = list(values)
    if not values:
        return {"count": 0, "mean": None, "stdev": None}
    return {
        "count": len(values),
        "mean": statistics.mean(values),
        "stdev": statistics.pstdev(values),
    }


def write_report(path, values):
    Path(path).write_text(json.dumps(summarise(values), indent=2) + "\n")
