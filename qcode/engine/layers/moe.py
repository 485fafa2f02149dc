"""Mixtures of experts: a router sends each token to a few of many small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qcode.engine.layers.linear import Linear


class MixtureOfExperts:
    """T = tokens, E = experts, K = experts per token."""

    def __init__(
        self,
        router: Linear,
        experts: Sequence[Callable[[Tensor], Tensor]],
        experts_per_token: int,
        *,
        norm_topk_prob: bool,
        shared_expert: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`shared_expert` is added for every token, if there is one."""
        self.router = router
        self.experts = experts
        self.experts_per_token = experts_per_token
        self.norm_topk_prob = norm_topk_prob
        self.shared_expert = shared_expert

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] -> [T, D]."""
        weights, chosen = self.route(x)
        # Sorted by expert, the rows of one expert lie together and are multiplied at once.
        order = chosen.flatten().argsort(stable=True)  # [T * K]
        rows = x[order // self.experts_per_token]
        results = torch.empty_like(rows)
        start = 0
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        for expert, count in zip(self.experts, counts, strict=True):
            if count:
                results[start : start + count] = expert(rows[start : start + count])
                start += count
        by_token = torch.empty_like(results)
        by_token[order] = results
        routed = (by_token.view(*chosen.shape, -1) * weights.unsqueeze(-1)).sum(1)
        return routed + self.shared_expert(x) if self.shared_expert else routed

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, D] -> the weight and the index of each token's experts, [T, K] both."""
        probabilities = self.router(x).softmax(-1, dtype=torch.float32)  # [T, E]
        weights, chosen = probabilities.topk(self.experts_per_token, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(x.dtype), chosen


class SharedExpert:
    """A network that every token passes through, each with a weight of its own."""

    __slots__ = ("gate", "mlp")

    def __init__(self, gate: Tensor, mlp: Callable[[Tensor], Tensor]) -> None:
        """`gate` is [D]."""
        self.gate = gate
        self.mlp = mlp

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] -> [T, D]."""
        return (x @ self.gate).sigmoid().unsqueeze(-1) * self.mlp(x)
