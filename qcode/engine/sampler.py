"""Logits to token ids: greedy, temperature, top-k, top-p, repetition penalty.

The order is that of transformers: penalty, temperature, top-k, then top-p over what is left.
Randomness is a function of (seed, position in the answer) alone, so a result depends neither on
the rest of the batch nor on being preempted and computed again.
"""

from __future__ import annotations

import math
import secrets
from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from qcode.engine.model_config import GenerationDefaults
from qcode.protocol.errors import EngineError
from qcode.protocol.sampling import SamplingParams

FAMILY_DEFAULTS = GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
"""Qwen3-Coder's published generation config, for what a checkpoint does not say itself."""

FIRST_CANDIDATES = 256
"""Where no top-k is set, this many best tokens are sorted first; all of them only if need be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSampling:
    """`SamplingParams` with the model's defaults filled in. `top_k` 0 keeps every token."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int

    def __post_init__(self) -> None:
        """Raises `EngineError` for values that native code must not see."""
        checks = {
            "temperature": 0.0 <= self.temperature <= 100.0,
            "top_p": 0.0 < self.top_p <= 1.0,
            "top_k": self.top_k >= 0,
            "repetition_penalty": 0.0 < self.repetition_penalty <= 100.0,
            "seed": -(2**63) <= self.seed < 2**64,
        }
        for name, is_valid in checks.items():
            if not is_valid:
                raise EngineError(f"sampling: {name}={getattr(self, name)} is out of range")


def resolve(params: SamplingParams, own: GenerationDefaults) -> ResolvedSampling:
    """What the request leaves open its checkpoint decides, and what that leaves open its family.

    Raises `EngineError` for values out of range.
    """
    if params.max_tokens is not None and params.max_tokens < 1:
        raise EngineError(f"sampling: max_tokens={params.max_tokens} is out of range")

    def first(name: str) -> float:
        values = (getattr(source, name) for source in (params, own, FAMILY_DEFAULTS))
        return float(next(value for value in values if value is not None))

    return ResolvedSampling(
        temperature=first("temperature"),
        top_p=first("top_p"),
        top_k=int(first("top_k")),
        repetition_penalty=first("repetition_penalty"),
        seed=params.seed if params.seed is not None else secrets.randbits(63),
    )


class SeenTokens:
    """The distinct tokens of one sequence, for the repetition penalty."""

    def __init__(self, tokens: abc.Iterable[int]) -> None:
        self._known = set(tokens)
        self._count = len(self._known)
        self._ids = torch.empty(max(64, 2 * self._count), dtype=torch.int64)
        self._ids[: self._count] = torch.tensor(sorted(self._known), dtype=torch.int64)

    def add(self, token: int) -> None:
        if token in self._known:
            return
        self._known.add(token)
        if self._count == len(self._ids):
            self._ids = torch.cat([self._ids, torch.empty_like(self._ids)])
        self._ids[self._count] = token
        self._count += 1

    @property
    def ids(self) -> Tensor:
        """[n] int64, each id once."""
        return self._ids[: self._count]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRow:
    """What one row of logits needs: `allowed` [V] bool is None where nothing is forbidden."""

    sampling: ResolvedSampling
    position: int
    seen: SeenTokens | None = None
    allowed: Tensor | None = None
    trace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A sampled token. The rest is filled for traced rows: by the model's own probabilities, over
    the allowed tokens, how likely it was and which other token was the most likely."""

    token: int
    probability: float = math.nan
    runner_up: int = -1
    runner_up_probability: float = math.nan


def sample(logits: Tensor, rows: abc.Sequence[SamplingRow]) -> list[Choice]:
    """Choose a token for each row of `logits` [R, V] float32, which is overwritten."""
    for row, item in zip(logits, rows, strict=True):
        if item.allowed is not None:
            row.masked_fill_(~item.allowed.to(row.device), -math.inf)
    own = [torch.softmax(logits[i], dim=-1) if rows[i].trace else None for i in range(len(rows))]
    for row, item in zip(logits, rows, strict=True):
        if item.seen is not None and item.sampling.repetition_penalty != 1.0:
            _penalise(row, item.seen.ids.to(row.device), item.sampling.repetition_penalty)
    tokens: list[int] = torch.argmax(logits, dim=-1).tolist()
    for i, item in enumerate(rows):
        if item.sampling.temperature > 0:
            tokens[i] = _draw(logits[i], item.sampling, item.position)
    return [_choice(token, probabilities) for token, probabilities in zip(tokens, own, strict=True)]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): SplitMix64 (Steele, Lea and Flood 2014) at counter `position`."""
    mask = 2**64 - 1
    # The seed is mixed first, else neighbouring seeds would be shifted copies of one stream.
    state = (_mix64(seed & mask) + (position + 1) * 0x9E3779B97F4A7C15) & mask
    return (_mix64(state) >> 11) * 2.0**-53


def _mix64(value: int) -> int:
    mask = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def _penalise(row: Tensor, seen: Tensor, penalty: float) -> None:
    """Keskar et al. 2019 (CTRL), as transformers does it: each seen token once."""
    scores = row[seen]
    row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _draw(row: Tensor, sampling: ResolvedSampling, position: int) -> int:
    """Invert the cumulative distribution of the tokens sorted by probability. Only as many are
    sorted as the draw needs, since a whole vocabulary takes longer to sort than to compute."""
    draw = uniform(sampling.seed, position)
    num_tokens = row.shape[-1]
    if 0 < sampling.top_k < num_tokens:
        best, ids = torch.topk(row, sampling.top_k)
        probabilities = torch.softmax(best.double() / sampling.temperature, dim=-1)
        return int(ids[_index_at(probabilities, sampling.top_p, draw)])
    scaled = row.double() / sampling.temperature
    total = torch.logsumexp(scaled, dim=-1)
    best, ids = torch.topk(scaled, min(FIRST_CANDIDATES, num_tokens))
    probabilities = torch.exp(best - total)
    needed = sampling.top_p if sampling.top_p < 1.0 else draw
    if float(probabilities.sum()) <= needed:
        best, ids = torch.sort(scaled, descending=True)
        probabilities = torch.exp(best - total)
    return int(ids[_index_at(probabilities, sampling.top_p, draw)])


def _index_at(probabilities: Tensor, top_p: float, draw: float) -> int:
    """Where `draw` falls in the smallest head of `probabilities` (sorted, descending) that holds
    at least `top_p`. The head, not the whole, is what the draw is a share of."""
    cumulative = torch.cumsum(probabilities, dim=-1)
    if top_p < 1.0:
        last = int(torch.searchsorted(cumulative, top_p))
        cumulative = cumulative[: last + 1]
        draw *= float(cumulative[-1])
    index = int(torch.searchsorted(cumulative, draw, right=True))
    return min(index, len(cumulative) - 1)


def _choice(token: int, probabilities: Tensor | None) -> Choice:
    if probabilities is None:
        return Choice(token=token)
    values, ids = torch.topk(probabilities, 2)
    other = 0 if int(ids[0]) != token else 1
    return Choice(
        token=token,
        probability=float(probabilities[token]),
        runner_up=int(ids[other]),
        runner_up_probability=float(values[other]),
    )
