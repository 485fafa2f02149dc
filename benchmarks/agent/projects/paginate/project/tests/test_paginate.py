from paginate import page_count, page_items, page_label


def test_items_of_second_page():
    assert page_items(list(range(25)), 2) == list(range(10, 20))


def test_last_page_is_short():
    assert page_items(list(range(25)), 3) == [20, 21, 22, 23, 24]


def test_page_count():
    assert page_count(25) == 3
    assert page_count(20) == 2


def test_label():
    assert page_label(1, 21) == "page 1 of 3"
