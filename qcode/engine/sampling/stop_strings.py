"""Strings that end an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcode.engine.tokenizer import IncrementalDecoder, Tokenizer


class StopStrings:
    """Cuts a text at the first of several strings, the same however the text is split."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.is_found = False

    def feed(self, text: str) -> str:
        """The text that is settled: what may be the beginning of a stop string is held back, and
        nothing follows one that was found."""
        if self.is_found:
            return ""
        text = self._held + text
        starts = {string: text.find(string) for string in self._strings}
        found = [(start + len(string), start) for string, start in starts.items() if start >= 0]
        if found:
            self.is_found = True
            self._held = ""
            # The one that is complete first, whatever else had begun before it.
            return text[: min(found)[1]]
        held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, once nothing follows."""
        held, self._held = self._held, ""
        return held


class StoppableText:
    """The text of an answer's tokens up to the first stop string, in whole characters."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stop = StopStrings(strings)

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_found

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these tokens settle."""
        return self._stop.feed(self._decoder.feed(ids))

    def flush(self) -> str:
        """What was held back, once nothing follows."""
        return self._stop.feed(self._decoder.flush()) + self._stop.flush()


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` begin `string`."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
