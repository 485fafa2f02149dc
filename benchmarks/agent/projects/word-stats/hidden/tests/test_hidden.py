from wordstats import frequencies


def test_quotes_and_dashes():
    assert frequencies('"Yes," she said. (Yes?)') == {"yes": 2, "she": 1, "said": 1}
    assert frequencies("... !") == {}
