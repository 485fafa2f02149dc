from loglines import parse_line


def test_punctuation():
    entry = parse_line("2023-12-31 23:59:59 WARN net: peer 10.0.0.1 is slow (3.5 s)")
    assert entry["message"] == "peer 10.0.0.1 is slow (3.5 s)"
    assert entry["time"] == "23:59:59"
