from ranges import HourRange


def test_overlap_table():
    base = HourRange(10, 20)
    assert base.overlaps(HourRange(0, 11))
    assert base.overlaps(HourRange(19, 30))
    assert base.overlaps(HourRange(12, 13))
    assert not base.overlaps(HourRange(0, 10))
    assert not base.overlaps(HourRange(20, 21))
