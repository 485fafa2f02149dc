"""Measurements in the peers' terms, and the two side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields

from benchmarks.client.measure import Measurement, around
from benchmarks.client.peers import PEERS, Peer

TURNS = (10, 50, 100, 150, 200)

Figures = dict[str, float]
"""Named as the fields of `Peer` where there is such a one."""

TARGETS: Mapping[str, float] = {
    "first_request_s": 0.45,
    "between_ms": 20,
    "turn_10_ms": 20,
    "turn_200_ms": 20,
    "request_tokens": 4000,
    "answer_wall_s": 3,
    "peak_mib": 150,
    "session_peak_mib": 150,
    "answer_peak_mib": 150,
}


def repair_figures(runs: Sequence[Measurement]) -> Figures:
    """Medians. The turns between which there is only the client's own work are the first two:
    after the third the tests run."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    return {
        "wall_s": median([run.wall_s for run in runs]),
        "first_request_s": median([run.first_request_s for run in runs]),
        "first_request_cpu_s": median([run.first_request_cpu_s for run in runs]),
        "between_ms": median([1e3 * gap for run in runs for gap in run.gaps_s[:2]]),
        "between_cpu_ms": median([1e3 * gap for run in runs for gap in run.gaps_cpu_s[:2]]),
        "exit_s": median([run.exit_s for run in runs]),
        "peak_mib": median([run.peak_mib for run in runs]),
        "request_bytes": runs[0].request_bytes[0],
        "stored_records": runs[0].num_stored_records,
    }


def session_figures(run: Measurement) -> Figures:
    figures: Figures = {"session_wall_s": run.wall_s}
    turns = [turn for turn in TURNS if turn < len(run.gaps_s)]
    for turn in turns:
        figures[f"turn_{turn}_ms"] = 1e3 * around(run.gaps_s, turn)
        figures[f"turn_{turn}_cpu_ms"] = 1e3 * around(run.gaps_cpu_s, turn)
    if turns:
        figures["session_rss_mib"] = run.rss_mib[turns[-1]]
        figures["session_request_mb"] = run.request_bytes[turns[-1] - 1] / 1e6
    figures["session_peak_mib"] = run.peak_mib
    figures["session_stored_records"] = run.num_stored_records
    return figures


def answer_figures(run: Measurement) -> Figures:
    return {
        "answer_wall_s": run.wall_s,
        "answer_cpu_s": run.cpu_s,
        "answer_exit_s": run.wall_s - run.first_request_s,
        "answer_peak_mib": run.peak_mib,
    }


def table(figures: Figures) -> str:
    """A row for us and one for each peer; the columns that were measured now."""
    columns = [
        field.name for field in fields(Peer) if field.name != "name" and field.name in figures
    ]
    rows = [["client", *(column.replace("_", " ") for column in columns)]]
    rows.append(["qcode", *(_number(figures[column]) for column in columns)])
    for peer in PEERS:
        rows.append([peer.name, *(_number(getattr(peer, column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def beside_targets(figures: Figures) -> str:
    """Every figure, and whether it keeps to its limit where it has one."""
    lines = []
    for name, value in figures.items():
        line = f"{name.replace('_', ' '):<28}{_number(value):>10}"
        if (limit := TARGETS.get(name)) is not None:
            line += f"   at most {_number(limit)}: {'kept' if value <= limit else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
