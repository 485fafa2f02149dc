"""Count words."""

from collections import Counter

from wordstats.words import split_words


def frequencies(text):
    return dict(Counter(split_words(text)))


def top_words(text, limit=3):
    """The most frequent words; equally frequent ones in alphabetical order."""
    counts = frequencies(text)
    return sorted(counts, key=lambda word: (-counts[word], word))[:limit]
