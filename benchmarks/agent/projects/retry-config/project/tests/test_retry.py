from retry import schedule, wait_before


def test_first_attempt_is_immediate():
    assert wait_before(1) == 0.0


def test_waits_double():
    assert [wait_before(n) for n in (2, 3)] == [1.0, 2.0]


def test_schedule():
    assert schedule() == [0.0, 1.0, 2.0, 4.0, 8.0]


def test_limit():
    assert wait_before(20) == 30.0
