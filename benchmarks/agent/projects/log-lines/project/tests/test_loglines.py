from loglines import count_levels, parse_line

LINE = "2024-05-01 12:30:00 ERROR disk: no space left"


def test_not_a_log_line():
    assert parse_line("hello") is None


def test_level_and_source():
    entry = parse_line(LINE)
    assert entry["level"] == "ERROR"
    assert entry["source"] == "disk"


def test_message():
    assert parse_line(LINE)["message"] == "no space left"


def test_count():
    assert count_levels([LINE, LINE, "x"]) == {"ERROR": 2}
