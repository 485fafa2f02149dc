from paginate import page_count


def test_page_counts():
    assert [page_count(n, 4) for n in (1, 3, 4, 5, 8, 9)] == [1, 1, 1, 2, 2, 3]
