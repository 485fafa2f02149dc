import pytest
from ranges import HourRange, free_of_conflicts


def test_hours():
    assert HourRange(9, 17).hours == 8


def test_backwards():
    with pytest.raises(ValueError):
        HourRange(5, 3)


def test_overlap():
    assert HourRange(9, 12).overlaps(HourRange(11, 13))
    assert not HourRange(9, 12).overlaps(HourRange(13, 15))


def test_neighbours_do_not_conflict():
    assert free_of_conflicts([HourRange(12, 14), HourRange(9, 12)])
