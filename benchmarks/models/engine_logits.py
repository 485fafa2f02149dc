"""The logits that the engine itself computes, in the ways in which it computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from qcode.engine.engine import Engine
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import LayerCache
from qcode.engine.models.loading import load_model
from qcode.engine.models.network import Network
from qcode.engine.options import EngineOptions
from qcode.protocol.sampling import SamplingParams

EXACT = EngineOptions(
    device="cpu", dtype="float32", kv_dtype="float32", kv_memory_bytes=64 << 20, block_size=4
)
"""Nothing is rounded; small blocks, so that short texts fill several."""
DEFAULT = EngineOptions(device="cpu", kv_memory_bytes=64 << 20)
"""As the engine runs where nobody asks for anything."""


class RecordingNetwork:
    """A network that keeps the logits it was asked for."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.key_channels = network.key_channels
        self.rows: list[Tensor] = []

    def forward(self, ids: Tensor, inputs: AttentionInputs, caches: Sequence[LayerCache]) -> Tensor:
        return self._network.forward(ids, inputs, caches)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self._network.logits(hidden)
        self.rows.append(logits.clone())  # the engine works in place
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A greedy answer: `tokens` are prompt and answer, `logits` [answer, V] what chose it."""

    tokens: list[int]
    num_prompt_tokens: int
    num_cached_tokens: int
    logits: Tensor


class RecordedEngine:
    """An engine whose logits can be read."""

    def __init__(self, path: Path, options: EngineOptions = EXACT) -> None:
        loaded = load_model(path, exact=options.dtype == "float32")
        self._network = RecordingNetwork(loaded.model)
        self._engine = Engine(replace(loaded, model=self._network), options)

    def prefill(self, tokens: Sequence[int]) -> Tensor:
        """Logits [T - 1, V] of all tokens but the last, read as one text."""
        self._network.rows.clear()
        self._engine.score(tokens)
        return torch.cat(self._network.rows)

    def answer(self, *prompts: Sequence[int], num_tokens: int) -> list[Continuation]:
        """Greedy answers to prompts that run at the same time."""
        sampling = SamplingParams(
            temperature=0, repetition_penalty=1.0, max_tokens=num_tokens, ignore_eos=True
        )
        ids = [self._engine.submit(prompt, sampling) for prompt in prompts]
        tokens = {number: list(prompt) for number, prompt in zip(ids, prompts, strict=True)}
        logits: dict[int, list[Tensor]] = {number: [] for number in ids}
        cached = dict.fromkeys(ids, 0)
        while self._engine.has_work:
            self._network.rows.clear()
            outputs = self._engine.step()
            for output in outputs:
                if output.prefill is not None:
                    cached[output.request_id] = output.prefill.cached_tokens
            sampled = [output for output in outputs if output.token_ids]
            rows = torch.cat(self._network.rows) if sampled else torch.empty(0, 0)
            # A row for each token of a draft and one more; those of refused tokens chose nothing.
            counts = [1 + output.num_draft_tokens for output in sampled]
            for output, its_rows in zip(sampled, torch.split(rows, counts), strict=True):
                tokens[output.request_id] += output.token_ids
                logits[output.request_id] += its_rows[: len(output.token_ids)]
        return [
            Continuation(
                tokens=tokens[number],
                num_prompt_tokens=len(prompt),
                num_cached_tokens=cached[number],
                logits=torch.stack(logits[number]),
            )
            for number, prompt in zip(ids, prompts, strict=True)
        ]


class Transformers:
    """The reference: `transformers` in float32, with plain attention and nothing cached."""

    def __init__(self, path: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager"
        )

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """[T, V]"""
        with torch.inference_mode():
            logits: Tensor = self._model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return logits

    def error(self, continuation: Continuation) -> float:
        """The largest relative error of the logits that chose an answer."""
        expected = self.logits(continuation.tokens[:-1])
        return relative_error(continuation.logits, expected[continuation.num_prompt_tokens - 1 :])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    if actual.shape != expected.shape:
        raise ValueError(f"logits {list(actual.shape)} beside {list(expected.shape)}")
    return ((actual - expected).abs().max() / expected.abs().max()).item()
