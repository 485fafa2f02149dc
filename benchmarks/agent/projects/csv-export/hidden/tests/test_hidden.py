from export import to_text


def test_both_ways():
    rows = [{"x": 1}]
    assert to_text(rows) == "x\n1\n"
    assert to_text(rows, header=False) == "1\n"
    assert to_text(rows, header=True) == "x\n1\n"
