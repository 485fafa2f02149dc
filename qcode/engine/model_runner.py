"""One step on the device: the batch's tensors and the network."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from qcode.engine.batch import build_batch
from qcode.engine.layers.cache import LayerCache
from qcode.engine.memory.kv_cache import KVCache
from qcode.engine.memory.recurrent_state import RecurrentStates
from qcode.engine.models.network import Network
from qcode.engine.sampling.scoring import log_probabilities
from qcode.engine.scheduling.block_pool import BlockCopy
from qcode.engine.scheduling.scheduler import Scheduled
from qcode.engine.scheduling.state_pool import StateCopy
from qcode.protocol.errors import OutOfMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """`logits` [R, V] float32 has rows for each sequence that is sampled in this step: what follows
    its last token, then what follows each token of its draft. `scores` has one list for each
    sequence that is scored. Both are in the order in which the sequences were scheduled."""

    logits: Tensor
    scores: list[list[float]]


class ModelRunner:
    """`num_tokens` is how many ids mean something: the rows of the output that pad it are cut."""

    def __init__(
        self,
        network: Network,
        cache: KVCache,
        states: RecurrentStates,
        *,
        num_tokens: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._cache = cache
        self._states = states
        self._layers = _layer_caches(cache, states)
        self._num_tokens = num_tokens
        self._block_size = block_size
        self._device = device

    @torch.inference_mode()
    def run(
        self,
        scheduled: abc.Sequence[Scheduled],
        copies: abc.Iterable[BlockCopy] = (),
        state_copies: abc.Iterable[StateCopy] = (),
    ) -> StepResult:
        """Make the copies, then run one step.

        Raises `OutOfMemory`.
        """
        try:
            self._cache.copy(copies)
            self._states.copy(state_copies)
            result = self._run(scheduled)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the caller takes the time of a step
            return result
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"no memory for a step of {sum(item.num_tokens for item in scheduled)} tokens",
                "Set a smaller cache budget or chunk size.",
            ) from error

    def _run(self, scheduled: abc.Sequence[Scheduled]) -> StepResult:
        batch = build_batch(scheduled, self._block_size, self._device)
        hidden = self._network.forward(batch.ids, batch.inputs, self._layers)
        return StepResult(
            logits=self._logits(hidden[batch.sampled_rows]),
            scores=self._score(scheduled, hidden),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        if not len(hidden):
            return hidden.new_empty(0, self._num_tokens, dtype=torch.float32)
        return self._network.logits(hidden)[:, : self._num_tokens]

    def _score(self, scheduled: abc.Sequence[Scheduled], hidden: Tensor) -> list[list[float]]:
        scores = []
        stop = 0
        for item in scheduled:
            start, stop = stop, stop + item.num_tokens
            if item.sequence.is_scored:
                # After losing its blocks a sequence is computed again, but not scored again.
                first = item.sequence.num_computed_tokens
                skipped = max(0, item.sequence.num_scores - first)
                targets = item.sequence.tokens[first + skipped + 1 : first + item.num_tokens + 1]
                rows = hidden[start + skipped : start + skipped + len(targets)]
                ids = torch.tensor(targets, dtype=torch.int64, device=hidden.device)
                scores.append(log_probabilities(rows, ids, self._network.logits))
        return scores


def _layer_caches(cache: KVCache, states: RecurrentStates) -> list[LayerCache]:
    """One for each layer of the network, in order."""
    keys_and_values = iter(cache.layers)
    return [
        states.layers[index] if index in states.layers else next(keys_and_values)
        for index in range(len(cache.layers) + len(states.layers))
    ]
