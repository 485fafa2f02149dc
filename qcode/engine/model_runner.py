"""One step on the device: the batch's tensors, the network, the sampler."""

from __future__ import annotations

from collections import abc
from typing import Protocol

import torch
from torch import Tensor

from qcode.engine.batch import build_batch
from qcode.engine.block_pool import BlockCopy
from qcode.engine.kv_cache import KVCache
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache
from qcode.engine.sampler import Choice, SamplingRow, sample
from qcode.engine.scheduler import Scheduled
from qcode.engine.sequence import Sequence
from qcode.protocol.errors import OutOfMemory


class Network(Protocol):
    """The part of a model that a step needs."""

    def forward(
        self, ids: Tensor, inputs: AttentionInputs, caches: abc.Sequence[LayerCache]
    ) -> Tensor:
        """ids [N] int64 -> hidden [N, D]; what these tokens leave is written to the caches."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, D] -> [R, V] float32."""
        ...


class ModelRunner:
    """`num_tokens` is how many ids mean something: the rows of the output that pad it are cut."""

    def __init__(
        self,
        network: Network,
        cache: KVCache,
        *,
        num_tokens: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._cache = cache
        self._num_tokens = num_tokens
        self._block_size = block_size
        self._device = device

    @torch.inference_mode()
    def run(
        self, scheduled: abc.Sequence[Scheduled], copies: abc.Iterable[BlockCopy]
    ) -> list[Choice]:
        """The tokens chosen for those of `scheduled` that are sampled, in their order.

        Raises `OutOfMemory`.
        """
        try:
            return self._run(scheduled, copies)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"no memory for a step of {sum(item.num_tokens for item in scheduled)} tokens",
                "Set a smaller cache budget or chunk size.",
            ) from error

    def _run(
        self, scheduled: abc.Sequence[Scheduled], copies: abc.Iterable[BlockCopy]
    ) -> list[Choice]:
        self._cache.copy(copies)
        batch = build_batch(scheduled, self._block_size, self._device)
        hidden = self._network.forward(batch.ids, batch.inputs, self._cache.layers)
        rows = [_sampling_row(item.sequence) for item in scheduled if item.is_sampled]
        if not rows:
            return []
        logits = self._network.logits(hidden[batch.sampled_rows])
        return sample(logits[:, : self._num_tokens], rows)


def _sampling_row(sequence: Sequence) -> SamplingRow:
    return SamplingRow(
        sampling=sequence.sampling,
        position=sequence.answer_position,
        seen=sequence.seen,
        allowed=sequence.constraint.allowed() if sequence.constraint is not None else None,
        trace=sequence.trace,
    )
