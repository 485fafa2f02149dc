"""What other clients took for the same scripted work.

Measured on 2026-11-22 on a machine with 2 cores and 24 GB (Debian 12), in a loopback-only network
namespace, each client headless with everything approved and telemetry off, against a local server
that answered at once, so that all time is the client's own. Memory is that of the process tree,
the pytest child (about 35 MiB) included. Tokens by tiktoken's o200k_base. Medians of 5 runs for
the repair, one run for the long session and the long answer. `floor` is a loop of 60 lines on the
standard library: the cost of the harness. Small differences are noise, and another machine has
other times: compare what was measured on the same one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Seconds, milliseconds, MiB; None where it was not measured. `session_rss_mib` is that after
    200 reads."""

    name: str
    wall_s: float
    first_request_s: float
    between_ms: float | None
    exit_s: float
    peak_mib: float
    request_tokens: int
    request_bytes: int
    turn_10_ms: float | None = None
    turn_200_ms: float | None = None
    session_rss_mib: float | None = None
    answer_wall_s: float | None = None
    answer_peak_mib: float | None = None


def _peer(name: str, *values: float | None) -> Peer:
    fields = (
        "wall_s first_request_s between_ms exit_s peak_mib request_tokens request_bytes "
        "turn_10_ms turn_200_ms session_rss_mib answer_wall_s answer_peak_mib"
    )
    return Peer(name=name, **dict(zip(fields.split(), values, strict=True)))  # type: ignore[arg-type]


PEERS = (
    _peer("floor", 0.53, 0.10, 1, 0.01, 51, 230, 784, 1, 8, 22, 1.1, 18),
    _peer("claude-code 2.1.330", 1.59, 0.67, 88, 0.09, 270, 11912, 50059, 46, 42, 342, 2.4, 298),
    _peer("codex 0.169.0", 1.05, 0.28, 99, 0.05, 217, 9297, 39657, 64, 90, 202, 1.7, 184),
    _peer("pi 0.73.1", 1.99, 1.58, 25, 0.04, 184, 1369, 5548, 13, 17, 327, 3.4, 182),
    _peer("kimi-cli 1.44.0", 3.81, 2.90, 42, 0.50, 159, 11568, 49148, 65, 259, 140, 15.0, 134),
    _peer("mistral-vibe 3.0.2", 4.72, 3.45, 71, 0.71, 180, 7848, 32673, 57, 145, 294, 10.9, 160),
    _peer("gemini-cli 0.61.0", 3.95, 2.56, 81, 0.85, 440, 10887, 48862, 11, 17, 626, 36.3, 481),
    _peer("qwen-code 0.24.4", 6.70, 3.03, 98, 2.68, 355, 17817, 78584, 31, 36, 370, 7.4, 346),
    _peer("opencode 1.18.33", 6.02, 3.34, 315, 0.29, 1182, 7200, 30750, 202, 254, 756, 14.0, 1750),
    _peer("aider 0.86.2", 5.65, 4.24, None, 1.41, 291, 2922, 11523, None, None, None, 24.0, 295),
)
"""gemini and qwen shorten old results themselves, so that their requests stay small at turn 200."""
