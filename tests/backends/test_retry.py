from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.backends.http import read_retry_after
from qcode.backends.retry import Failure, retry_wait_s

CONNECT = Failure(kind="connect")
BROKEN = Failure(kind="broken")


def longest(failure: Failure, *, tries: int, breaks: int = 0) -> float | None:
    return retry_wait_s(failure, tries=tries, breaks=breaks, jitter=lambda: 1.0)


def test_waits_double_from_half_a_second_and_end_after_six_tries() -> None:
    waits = [longest(CONNECT, tries=tries) for tries in range(1, 8)]
    assert waits == [0.5, 1, 2, 4, 8, None, None]


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_these_statuses_are_tried_again(status: int) -> None:
    assert longest(Failure(kind="status", status=status), tries=1) == 0.5


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 501])
def test_these_statuses_stay(status: int) -> None:
    assert longest(Failure(kind="status", status=status), tries=1) is None


def test_a_failure_that_cannot_pass_is_not_retried() -> None:
    assert longest(Failure(kind="final"), tries=1) is None


@pytest.mark.parametrize(
    ("asked_s", "wait_s"), [(0.2, 0.2), (120, 120), (121, None), (0, 0.5), (None, 0.5)]
)
def test_the_servers_own_wait_is_obeyed_within_reason(
    asked_s: float | None, wait_s: float | None
) -> None:
    failure = Failure(kind="status", status=429, retry_after_s=asked_s)
    assert longest(failure, tries=1) == wait_s


def test_an_answer_may_break_off_twice() -> None:
    waits = [longest(BROKEN, tries=count, breaks=count) for count in (1, 2, 3)]
    assert waits == [0.5, 1, None]


@given(st.integers(1, 5), st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens_a_wait(tries: int, jitter: float) -> None:
    wait_s = retry_wait_s(CONNECT, tries=tries, breaks=0, jitter=lambda: jitter)
    full_s = longest(CONNECT, tries=tries)
    assert wait_s is not None
    assert full_s is not None
    assert 0 <= wait_s <= full_s <= 60


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers, time.time()) == seconds


def test_retry_after_as_a_date() -> None:
    now = 1_700_000_000.0
    header = formatdate(now + 30, usegmt=True)
    assert read_retry_after({"retry-after": header}, now) == 30
