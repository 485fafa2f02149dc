import pytest
from settings import SettingsError, get_int, parse


def test_parse():
    assert parse("# ports\nport = 8080\n\nhost = local\n") == {"port": "8080", "host": "local"}


def test_get_int():
    assert get_int({"port": "8080"}, "port") == 8080


def test_missing():
    with pytest.raises(SettingsError, match="port is not set"):
        get_int({}, "port")


def test_not_a_number():
    with pytest.raises(SettingsError, match="not a number: many"):
        get_int({"port": "many"}, "port")
