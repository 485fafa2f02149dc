from sensors import summary, valid


def test_a_stream_can_be_summed_up():
    assert summary(iter([1, 2, 3, -5])) == {"count": 3, "mean": 2, "highest": 3}


def test_nothing_valid():
    assert summary([-1]) == {"count": 0, "mean": 0, "highest": 0}


def test_valid_leaves_out_the_broken():
    assert list(valid([0, -1, 2])) == [0, 2]
