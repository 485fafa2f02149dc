"""Log-probabilities of given tokens, in bounded memory."""

from __future__ import annotations

from collections import abc

import torch
from torch import Tensor

SCORED_ROWS = 128
"""Logits of this many tokens exist at a time: 78 MB for a vocabulary of 152 thousand."""


def log_probabilities(
    hidden: Tensor, targets: Tensor, logits: abc.Callable[[Tensor], Tensor]
) -> list[float]:
    """How likely each row of `hidden` [T, D] holds its target, `targets` [T] int64, over the whole
    output of the network: `logits` maps [R, D] to [R, V] float32."""
    scores: list[float] = []
    for start in range(0, len(targets), SCORED_ROWS):
        rows, ids = hidden[start : start + SCORED_ROWS], targets[start : start + SCORED_ROWS]
        scores += _log_softmax_at(logits(rows), ids).tolist()
    return scores


def _log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """[R, V], [R] -> [R]. Overwrites `logits`, which is the largest tensor of a step."""
    logits -= logits.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, ids[:, None]).squeeze(-1)
    return chosen - torch.log(logits.exp_().sum(dim=-1))
