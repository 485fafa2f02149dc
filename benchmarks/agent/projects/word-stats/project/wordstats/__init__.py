from wordstats.count import frequencies, top_words

__all__ = ["frequencies", "top_words"]
