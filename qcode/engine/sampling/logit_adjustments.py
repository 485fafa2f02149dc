"""What a request adds to or takes from the logits before a token is chosen: bias and penalties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class TokenCounts:
    """The distinct tokens of a growing text, and how often each came."""

    def __init__(self, tokens: Iterable[int]) -> None:
        counts = Counter(tokens)
        self._places = {token: place for place, token in enumerate(counts)}
        capacity = max(64, 2 * len(counts))
        self._ids = torch.zeros(capacity, dtype=torch.int64)
        self._counts = torch.zeros(capacity, dtype=torch.float32)
        self._ids[: len(counts)] = torch.tensor(list(counts), dtype=torch.int64)
        self._counts[: len(counts)] = torch.tensor(list(counts.values()), dtype=torch.float32)

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = torch.cat([self._ids, torch.zeros_like(self._ids)])
            self._counts = torch.cat([self._counts, torch.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> Tensor:
        """[n] int64, each id once, in the order in which they first came."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Tensor:
        """[n] float32, how often each of `ids` came."""
        return self._counts[: len(self._places)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """`repetition` 1, `presence` 0 and `frequency` 0 change nothing."""

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0


class LogitAdjustments:
    """The bias and the penalties of one sequence, kept up to date token by token."""

    def __init__(
        self,
        bias: Sequence[tuple[int, float]],
        penalties: Penalties,
        *,
        prompt: Iterable[int],
        output: Iterable[int],
    ) -> None:
        """`output` are the tokens of the answer so far: they alone count for presence and
        frequency."""
        self._penalties = penalties
        self._bias = _bias_tensors(bias) if bias else None
        output = list(output)
        self._seen = TokenCounts([*prompt, *output]) if penalties.repetition != 1.0 else None
        adds = penalties.presence or penalties.frequency
        self._output = TokenCounts(output) if adds else None

    def add(self, token: int) -> None:
        """Take note of a token of the output."""
        for counts in (self._seen, self._output):
            if counts is not None:
                counts.add(token)

    def apply(self, row: Tensor) -> None:
        """Adjust one row of logits [V] float32 in place."""
        if self._bias is not None:
            ids, values = (part.to(row.device) for part in self._bias)
            row.index_add_(0, ids, values)
        if self._seen is not None:
            _repetition(row, self._seen.ids.to(row.device), self._penalties.repetition)
        if self._output is not None:
            taken = self._penalties.presence + self._penalties.frequency * self._output.counts
            row.index_add_(0, self._output.ids.to(row.device), -taken.to(row.device))


def _bias_tensors(bias: Sequence[tuple[int, float]]) -> tuple[Tensor, Tensor]:
    ids, values = zip(*bias, strict=True)
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(values, dtype=torch.float32)


def _repetition(row: Tensor, seen: Tensor, penalty: float) -> None:
    """Keskar et al. 2019 (CTRL), as transformers does it: each seen token once."""
    scores = row[seen]
    row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
