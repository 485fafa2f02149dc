"""The table at the end of a run: Markdown, as docs/reference/measured.md holds it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.cpu.measurements import Row

LEGEND = """\
Medians; in brackets the spread from the tenth to the ninetieth percentile where there are several
samples, and the best. The ratio is that of the medians, ours over theirs, turned round for seconds:
above 1 we are faster. For memory it is ours over theirs: below 1 we take less."""


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    lines = [
        f"| | {' | '.join(names)} |" + (" ratio |" if len(names) > 1 else ""),
        "|---|" + "--:|" * (len(names) + (len(names) > 1)),
    ]
    for row in rows:
        cells = [_cell(row.samples.get(name, ()), row.more_is_better) for name in names]
        if len(names) > 1:
            cells.append(f"{ratio(row, names):.2f}" if len(row.samples) == len(names) else "")
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(row: Row, names: Sequence[str]) -> float:
    """Of the first engine's median to the second's, seconds turned round."""
    ours, theirs = (statistics.median(row.samples[name]) for name in names)
    return theirs / ours if row.title.endswith(", s") else ours / theirs


def _cell(samples: Sequence[float], more_is_better: bool) -> str:
    if not samples:
        return ""
    median = _number(statistics.median(samples))
    if len(samples) == 1:
        return median
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    best = max(samples) if more_is_better else min(samples)
    return f"{median} ({_number(tenths[0])}–{_number(tenths[-1])}, best {_number(best)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
