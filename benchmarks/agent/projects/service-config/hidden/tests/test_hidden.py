import pytest

from service import load


def test_the_rest_is_as_it_was():
    assert load()["server"] == {"host": "127.0.0.1", "port": 8080, "workers": 4}


def test_a_wrong_port_is_still_refused(tmp_path):
    file = tmp_path / "other.toml"
    file.write_text('[server]\nport = "80"\n')
    with pytest.raises(ValueError):
        load(file)
