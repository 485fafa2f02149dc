from mdtable import render_table


def test_right_and_center():
    lines = render_table(["n", "name"], [[7, "ab"]], align=["right", "center"]).splitlines()
    assert lines == ["|   n | name |", "| --: | :--: |", "|   7 |  ab  |"]
