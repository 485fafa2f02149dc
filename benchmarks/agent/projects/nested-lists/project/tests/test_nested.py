from nested import depth, flatten


def test_flatten():
    assert flatten([1, [2, [3, []]], 4]) == [1, 2, 3, 4]


def test_empty_depth():
    assert depth([]) == 1


def test_depth():
    assert depth([1]) == 1
    assert depth([1, [2]]) == 2
