from retry import wait_before


def test_growth_and_limit():
    assert [wait_before(n) for n in (5, 6, 7)] == [8.0, 16.0, 30.0]
