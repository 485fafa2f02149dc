from nested import depth


def test_depths():
    assert depth([[], [[]]]) == 3
    assert depth([1, 2, 3]) == 1
    assert depth([[[1], 2], 3]) == 3
