"""Split text into words."""

PUNCTUATION = ".,;:!?\"'()"


def split_words(text):
    """The words of the text, in lower case and without punctuation around them."""
    words = []
    for raw in text.split():
        word = raw.strip(PUNCTUATION)
        if word:
            words.append(raw.lower())
    return words
