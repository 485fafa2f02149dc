import pytest
from settings import SettingsError, get_int


@pytest.mark.parametrize("value", ["", "1.5", "x1"])
def test_bad_numbers(value):
    with pytest.raises(SettingsError):
        get_int({"n": value}, "n")


def test_negative():
    assert get_int({"n": "-3"}, "n") == -3
