"""Byte-level BPE by tiktoken over a checkpoint's own vocabulary."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import tiktoken

from qcode.engine.checkpoint.vocabulary import QWEN2_PATTERN, Vocabulary

MAX_WHITESPACE_RUN = 500_000
"""tiktoken's regular expression engine gives up, by a panic, on a run of a million."""


class Tokenizer:
    """Text <-> token ids. Knows nothing of roles, tools or templates."""

    def __init__(self, vocabulary: Vocabulary, *, eos_ids: frozenset[int]) -> None:
        """`eos_ids` are the tokens that end an answer."""
        self.eos_ids = eos_ids
        self.encoding = tiktoken.Encoding(
            "qwen",
            pat_str=QWEN2_PATTERN,
            mergeable_ranks=dict(vocabulary.ranks),
            special_tokens=dict(vocabulary.special_tokens),
        )
        self._special_tokens = vocabulary.special_tokens
        self._nfc = vocabulary.nfc
        self._bytes = _bytes_by_id(vocabulary)
        longest_first = sorted(vocabulary.special_tokens, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def num_tokens(self) -> int:
        """One more than the highest id; the network may have further, unused rows."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text; what looks like a special token stays text."""
        if self._nfc and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        if len(text) <= MAX_WHITESPACE_RUN:
            return self.encoding.encode_ordinary(text)
        return [
            i for part in _without_endless_runs(text) for i in self.encoding.encode_ordinary(part)
        ]

    def encode_prompt(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of the concatenation of (text, trusted) pieces.

        A special token is recognised only where it lies inside one trusted piece. The text between
        two special tokens is encoded as one run, whatever pieces it came from, so that the ids are
        those the model was trained on.
        """
        ids: list[int] = []
        text = "".join(piece for piece, _ in pieces)
        position = 0
        for start, end in self._special_spans(pieces):
            ids += self.encode(text[position:start])
            ids.append(self._special_tokens[text[start:end]])
            position = end
        return ids + self.encode(text[position:])

    def _special_spans(self, pieces: Sequence[tuple[str, bool]]) -> Iterator[tuple[int, int]]:
        starts = accumulate((len(text) for text, _ in pieces), initial=0)
        for (text, trusted), start in zip(pieces, starts, strict=False):
            if trusted:
                for match in self._special_pattern.finditer(text):
                    yield start + match.start(), start + match.end()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens, special ones included; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for: none for an id without a token."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def special_id(self, text: str) -> int | None:
        """The id of the special token with exactly this text."""
        return self._special_tokens.get(text)


class IncrementalDecoder:
    """Turns ids into text as they come, holding back characters that are not complete yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The characters these ids complete."""
        return self._decoder.decode(b"".join(map(self._tokenizer.token_bytes, ids)))

    def flush(self) -> str:
        """What was held back, incomplete as it is, as U+FFFD. The decoder starts afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _without_endless_runs(text: str) -> Iterator[str]:
    """The text in parts, none of which has more whitespace in a row than tiktoken can take."""
    start = 0
    for run in re.finditer(r"\s++", text):
        for end in range(run.start() + MAX_WHITESPACE_RUN, run.end(), MAX_WHITESPACE_RUN):
            yield text[start:end]
            start = end
    yield text[start:]


def _bytes_by_id(vocabulary: Vocabulary) -> list[bytes]:
    ids = [*vocabulary.ranks.values(), *vocabulary.special_tokens.values()]
    by_id = [b""] * (max(ids) + 1)
    for token, token_id in vocabulary.ranks.items():
        by_id[token_id] = token
    for text, token_id in vocabulary.special_tokens.items():
        by_id[token_id] = text.encode()
    return by_id
