from wordstats import frequencies, top_words


def test_plain_words():
    assert frequencies("a b a") == {"a": 2, "b": 1}


def test_punctuation():
    assert frequencies("Stop, thief! Stop!") == {"stop": 2, "thief": 1}


def test_top_words():
    assert top_words("b a c a b", limit=2) == ["a", "b"]
