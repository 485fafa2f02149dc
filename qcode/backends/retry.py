"""Which failed requests are tried again, and when. Pure: it waits for nothing itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from qcode.protocol.values import dataclass

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 60.0
MAX_RETRY_AFTER_S = 120.0
_MAX_TRIES = 6
_MAX_BREAKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one try ended.

    "connect": nothing was answered. "status": an HTTP status. "broken": the answer broke off,
    fell silent or became unreadable after it had begun. "final": trying again cannot help.
    """

    kind: Literal["connect", "status", "broken", "final"]
    status: int | None = None
    retry_after_s: float | None = None


def retry_wait_s(
    failure: Failure,
    *,
    tries: int,
    breaks: int,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """Seconds until the next try; None: give up.

    `tries` counts the requests sent so far and `breaks` those that broke off, this one included.
    Waits double from half a second, with full jitter: a number in [0, 1) times the wait. A wait
    the server names is obeyed instead, unless it is too long to sit through.
    """
    if not _may_retry(failure, tries=tries, breaks=breaks):
        return None
    asked_s = failure.retry_after_s
    if asked_s is not None and asked_s > 0:
        return asked_s if asked_s <= MAX_RETRY_AFTER_S else None
    longest_s: float = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1))
    return jitter() * longest_s


def _may_retry(failure: Failure, *, tries: int, breaks: int) -> bool:
    if tries >= _MAX_TRIES:
        return False
    match failure.kind:
        case "connect":
            return True
        case "status":
            return failure.status in RETRIED_STATUS
        case "broken":
            return breaks <= _MAX_BREAKS
        case "final":
            return False
