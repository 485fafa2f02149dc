import pytest
from mdtable import render_table


def test_plain():
    assert render_table(["a", "b"], [[1, 2]]) == "| a   | b   |\n| :-- | :-- |\n| 1   | 2   |"


def test_unknown_alignment():
    with pytest.raises(ValueError):
        render_table(["a"], [], align=["top"])


def test_missing_cells():
    assert render_table(["a", "b"], [["x"]], empty="-").splitlines()[2] == "| x   | -   |"


def test_numbers_on_the_right():
    table = render_table(["item", "price"], [["tea", 450]], align=["left", "right"])
    assert table.splitlines()[2] == "| tea  |   450 |"
