from sensors import summary


def test_a_summary_of_valid_readings():
    assert summary([4, -1, 8]) == {"count": 2, "mean": 6, "highest": 8}
