from export import column_names, to_text

ROWS = [{"name": "Ada", "born": 1815}, {"name": "Alan", "born": 1912}]


def test_column_names():
    assert column_names([{"a": 1}, {"b": 2, "a": 3}]) == ["a", "b"]


def test_header_row():
    assert to_text(ROWS).splitlines()[0] == "name,born"


def test_no_header():
    assert to_text(ROWS, header=False).splitlines() == ["Ada,1815", "Alan,1912"]


def test_delimiter():
    assert to_text(ROWS, delimiter=";").splitlines()[1] == "Ada;1815"
