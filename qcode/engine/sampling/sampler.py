"""Logits to token ids: greedy or drawn from what temperature, top-k, top-p and min-p leave.

First what must not come is masked, then the request's bias is added and its penalties are applied
(repetition, then presence and frequency), as vLLM orders them. Drawing goes as in transformers:
temperature, top-k, top-p over what top-k left, min-p over what top-p left. Log-probabilities are
those of the masked logits before all of that, as vLLM and OpenAI report them.

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
from qcode.engine.sampling.logit_adjustments import LogitAdjustments, Penalties
from qcode.protocol.errors import EngineError
from qcode.protocol.sampling import SamplingParams

FAMILY_DEFAULTS = GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
"""Qwen3-Coder's published generation config, for what a checkpoint does not say itself."""

FIRST_CANDIDATES = 256
"""Where no top-k is set, this many best tokens are sorted first; all of them only if need be."""


MAX_BIAS = 100.0
"""OpenAI's limit for the bias of a logit: enough to forbid a token or to force it."""

MAX_LOGPROBS = 20
"""OpenAI's limit for alternatives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSampling:
    """`SamplingParams` with the model's defaults filled in. `top_k` 0 keeps every token, `logprobs`
    None reports none."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raises `EngineError` for values that native code must not see."""
        checks = {
            "temperature": 0.0 <= self.temperature <= 100.0,
            "top_p": 0.0 < self.top_p <= 1.0,
            "top_k": self.top_k >= 0,
            "repetition_penalty": 0.0 < self.repetition_penalty <= 100.0,
            "seed": -(2**63) <= self.seed < 2**64,
            "min_p": 0.0 <= self.min_p <= 1.0,
            "presence_penalty": -2.0 <= self.presence_penalty <= 2.0,
            "frequency_penalty": -2.0 <= self.frequency_penalty <= 2.0,
            "logprobs": self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
        }
        for name, is_valid in checks.items():
            if not is_valid:
                raise EngineError(f"sampling: {name}={getattr(self, name)} is out of range")

    @property
    def adjusts_logits(self) -> bool:
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
        )


def resolve(params: SamplingParams, own: GenerationDefaults, num_tokens: int) -> ResolvedSampling:
    """What the request leaves open its checkpoint decides, and what that leaves open its family.

    Raises `EngineError` for values out of range and for ids beyond the vocabulary of `num_tokens`.
    """
    _check_ids(params, num_tokens)
    if params.max_tokens is not None and params.max_tokens < 1:
        raise EngineError(f"sampling: max_tokens={params.max_tokens} is out of range")

    def first(name: str) -> float:
        values = (getattr(source, name) for source in (params, own, FAMILY_DEFAULTS))
        return float(next(value for value in values if value is not None))

    return ResolvedSampling(
        temperature=first("temperature"),
        top_p=first("top_p"),
        top_k=int(first("top_k")),
        min_p=params.min_p or 0.0,
        repetition_penalty=first("repetition_penalty"),
        presence_penalty=params.presence_penalty or 0.0,
        frequency_penalty=params.frequency_penalty or 0.0,
        logit_bias=params.logit_bias,
        seed=params.seed if params.seed is not None else secrets.randbits(63),
        logprobs=params.logprobs,
    )


def _check_ids(params: SamplingParams, num_tokens: int) -> None:
    biased = [token for token, _ in params.logit_bias]
    for name, ids in (("logit_bias", biased), ("stop_ids", params.stop_ids)):
        for token in ids:
            if not 0 <= token < num_tokens:
                raise EngineError(
                    f"sampling: {name} names token {token}, which is out of range of the "
                    f"vocabulary of {num_tokens}"
                )
    if len(set(biased)) < len(biased):
        raise EngineError("sampling: logit_bias names a token twice")
    for token, bias in params.logit_bias:
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise EngineError(f"sampling: logit_bias={bias} of token {token} is out of range")


def logit_adjustments(
    sampling: ResolvedSampling, *, prompt: abc.Iterable[int], output: abc.Iterable[int]
) -> LogitAdjustments | None:
    """The bias and penalties of a request whose answer so far is `output`; None without any."""
    if not sampling.adjusts_logits:
        return None
    penalties = Penalties(
        repetition=sampling.repetition_penalty,
        presence=sampling.presence_penalty,
        frequency=sampling.frequency_penalty,
    )
    return LogitAdjustments(sampling.logit_bias, penalties, prompt=prompt, output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRow:
    """What one row of logits needs: `allowed` [V] bool is None where nothing is forbidden,
    `position` is the index of the token in the answer."""

    sampling: ResolvedSampling
    position: int
    adjustments: LogitAdjustments | None = None
    allowed: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A sampled token. Where log-probabilities were asked for: its own, and the most likely
    tokens with theirs, by the model's own distribution over the allowed tokens."""

    token: int
    logprob: float = math.nan
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, rows: abc.Sequence[SamplingRow]) -> list[Choice]:
    """Choose a token for each row of `logits` [R, V] float32, which is overwritten."""
    for row, item in zip(logits, rows, strict=True):
        if item.allowed is not None:
            row.masked_fill_(~item.allowed.to(row.device), -math.inf)
    own = [
        torch.log_softmax(row, dim=-1) if item.sampling.logprobs is not None else None
        for row, item in zip(logits, rows, strict=True)
    ]
    for row, item in zip(logits, rows, strict=True):
        if item.adjustments is not None:
            item.adjustments.apply(row)
    tokens: list[int] = torch.argmax(logits, dim=-1).tolist()
    for i, item in enumerate(rows):
        if item.sampling.temperature > 0:
            tokens[i] = _draw(logits[i], item.sampling, item.position)
    return [
        _choice(token, logprobs, item.sampling.logprobs or 0)
        for token, logprobs, item in zip(tokens, own, rows, strict=True)
    ]


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


def _draw(row: Tensor, sampling: ResolvedSampling, position: int) -> int:
    """Invert the cumulative distribution of the tokens that are left. Only as many are sorted as
    that needs, since a whole vocabulary takes longer to sort than to compute."""
    draw = uniform(sampling.seed, position)
    num_tokens = row.shape[-1]
    if 0 < sampling.top_k < num_tokens:
        best, ids = torch.topk(row, sampling.top_k)
        probabilities = torch.softmax(best.double() / sampling.temperature, dim=-1)
        return int(ids[_index_at(probabilities, sampling, draw)])
    probabilities = torch.softmax(row.double() / sampling.temperature, dim=-1)
    least = sampling.min_p * float(probabilities.max())
    if sampling.top_p == 1.0:
        # Who is left is known without an order, and a draw may be taken in any.
        cumulative = torch.cumsum(probabilities.masked_fill_(probabilities < least, 0.0), dim=-1)
        return _place(cumulative, draw * float(cumulative[-1]))
    best, ids = torch.topk(probabilities, min(FIRST_CANDIDATES, num_tokens))
    if float(best[-1]) >= least and float(best.sum()) <= sampling.top_p:
        kept = torch.nonzero(probabilities >= least).squeeze(-1)
        best, order = torch.sort(probabilities[kept], descending=True)
        ids = kept[order]
    return int(ids[_index_at(best, sampling, draw)])


def _index_at(probabilities: Tensor, sampling: ResolvedSampling, draw: float) -> int:
    """Where `draw` falls in the head of `probabilities` (sorted, descending) that top-p and min-p
    leave: the smallest that holds at least `top_p`, and of that what is at least `min_p` times as
    likely as the first. The head, not the whole, is what the draw is a share of."""
    cumulative = torch.cumsum(probabilities, dim=-1)
    size = len(cumulative)
    if sampling.top_p < 1.0:
        size = min(size, int(torch.searchsorted(cumulative, sampling.top_p)) + 1)
    if sampling.min_p > 0.0:
        likely = probabilities >= sampling.min_p * probabilities[0]
        size = min(size, int(torch.count_nonzero(likely)))
    if sampling.top_p < 1.0 or sampling.min_p > 0.0:
        cumulative = cumulative[:size]
        draw *= float(cumulative[-1])
    return _place(cumulative, draw)


def _place(cumulative: Tensor, draw: float) -> int:
    """The first place at which a cumulative distribution exceeds `draw`."""
    return min(int(torch.searchsorted(cumulative, draw, right=True)), len(cumulative) - 1)


def _choice(token: int, logprobs: Tensor | None, num_top: int) -> Choice:
    if logprobs is None:
        return Choice(token=token)
    values, ids = torch.topk(logprobs, min(num_top, len(logprobs)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return Choice(
        token=token,
        logprob=float(logprobs[token]),
        # Forbidden tokens are no alternatives.
        top=tuple((id_, value) for id_, value in pairs if value > -math.inf),
    )
