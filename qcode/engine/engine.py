"""Tokens in, tokens out: requests are submitted, and each step moves all of them on."""

from __future__ import annotations

import time
from collections import abc
from pathlib import Path

import torch

from qcode.engine.device import (
    activation_dtype,
    available_bytes,
    cache_dtype,
    choose_device,
    num_physical_cores,
)
from qcode.engine.grammar import Constraint, GrammarCompiler
from qcode.engine.memory.budget import kv_bytes_per_token
from qcode.engine.memory.context_window import with_context_window
from qcode.engine.memory.kv_cache import KVCache, plan_kv_cache
from qcode.engine.memory.recurrent_state import RecurrentStates, plan_state_slots
from qcode.engine.model_config import ModelConfig
from qcode.engine.model_runner import ModelRunner, StepResult
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.outputs import advance, finish_reason, prefill_progress, take_scores
from qcode.engine.requests import Requests
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.scheduler import ChunkSizer, Scheduled, Scheduler
from qcode.engine.scheduling.sequence import RequestId, TokenOutput
from qcode.engine.scheduling.state_pool import SNAPSHOT_SPACING, StatePool
from qcode.protocol.sampling import SamplingParams


class Engine:
    """Synchronous; every method is called on one thread, the one that loaded it."""

    def __init__(self, loaded: LoadedModel, options: EngineOptions) -> None:
        """Raises `OutOfMemory`."""
        device = choose_device(options.device)
        kv_dtype = cache_dtype(options, device)
        config = loaded.config
        free = available_bytes(device)
        plan = plan_kv_cache(config, options, kv_dtype=kv_dtype, available_bytes=free)
        num_kv_tokens = plan.num_blocks * options.block_size
        free -= num_kv_tokens * kv_bytes_per_token(config, kv_dtype)
        self._num_state_slots = plan_state_slots(config, options, available_bytes=free)
        self.loaded = loaded
        self.context_window = plan.context_window
        num_tokens = min(config.vocab_size, loaded.tokenizer.num_tokens)
        self.grammars = GrammarCompiler(
            loaded.tokenizer.encoding,
            num_tokens=num_tokens,
            eos_ids=sorted(loaded.tokenizer.eos_ids),
        )
        self._options = options
        self.num_blocks = plan.num_blocks
        cache = KVCache(
            config,
            num_blocks=plan.num_blocks,
            block_size=options.block_size,
            kv_dtype=kv_dtype,
            device=device,
        )
        states = RecurrentStates(
            config,
            num_slots=self._num_state_slots,
            dtype=activation_dtype(options, device),
            device=device,
        )
        self._runner = ModelRunner(
            loaded.model,
            cache,
            states,
            num_tokens=num_tokens,
            block_size=options.block_size,
            device=device,
        )
        self._chunks = ChunkSizer(
            max_tokens=options.max_chunk_tokens, target_s=options.chunk_target_s
        )
        self._requests = Requests(
            loaded.tokenizer,
            config.generation,
            num_tokens=num_tokens,
            context_window=plan.context_window,
        )
        self.reset()

    @classmethod
    def load(
        cls,
        path: Path,
        options: EngineOptions,
        progress: abc.Callable[[float], None] | None = None,
    ) -> Engine:
        """Load a checkpoint. `progress` gets the share that is done; what it raises ends the
        loading. Raises `CheckpointError`, `UnsupportedModel`, `OutOfMemory`, and `EngineError`
        for a context window beyond what the model can be scaled to."""
        device = choose_device(options.device)
        # A thread count belongs to the thread that sets it: this one will run every step.
        torch.set_num_threads(options.num_threads or num_physical_cores())
        dtype = activation_dtype(options, device)
        loaded = load_model(
            path,
            dtype=dtype,
            device=device,
            exact=options.dtype == "float32",
            configure=lambda config: _configured(config, options, device),
            progress=progress,
        )
        return cls(loaded, options)

    @property
    def has_work(self) -> bool:
        return bool(self._outputs) or self._scheduler.has_work

    @property
    def num_available_blocks(self) -> int:
        """Blocks of the cache that no request holds."""
        return self._pool.num_available

    @property
    def num_available_state_slots(self) -> int:
        """Slots for recurrent states that no request holds."""
        return self._states.num_available

    def reset(self) -> None:
        """Forget every request and all cached prefixes, as after a step that failed midway."""
        self._pool = BlockPool(
            self.num_blocks, self._options.block_size, prefix_reuse=self._options.prefix_reuse
        )
        self._states = StatePool(
            self._num_state_slots,
            self._options.block_size,
            prefix_reuse=self._options.prefix_reuse,
            snapshot_spacing=max(SNAPSHOT_SPACING, self._options.max_chunk_tokens),
        )
        self._scheduler = Scheduler(
            self._pool,
            self._chunks,
            max_sequences=self._options.max_sequences,
            states=self._states if self._num_state_slots else None,
        )
        self._outputs: list[TokenOutput] = []

    def submit(
        self,
        prompt: abc.Sequence[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        prefix_ids: abc.Sequence[int] = (),
    ) -> RequestId:
        """Queue a request. `prefix_ids` continue the prompt and count as the answer's beginning:
        for `max_tokens`, for the seed, for penalties, for stop strings and for the constraint.

        Raises `ContextOverflow` for a prompt without room for an answer, `EngineError` for ids
        out of the vocabulary, sampling values out of range or a prefix the constraint refuses.
        """
        sequence = self._requests.answer(prompt, sampling, constraint, prefix_ids)
        reason = finish_reason(sequence, self.context_window)
        if reason is None:
            self._scheduler.add(sequence)
        else:
            self._outputs.append(TokenOutput(request_id=sequence.id, finish_reason=reason))
        return sequence.id

    def submit_score(self, ids: abc.Sequence[int]) -> RequestId:
        """Queue a text whose tokens' log-probabilities are wanted: `TokenOutput.scores` has them,
        one for each token after the first, given those before it.

        Raises `EngineError` for fewer than two tokens, for more than the context window and for
        ids out of the vocabulary.
        """
        sequence = self._requests.score(ids)
        self._scheduler.add(sequence)
        return sequence.id

    def score(self, ids: abc.Sequence[int]) -> list[float]:
        """The log-probability of each token after the first, given those before it; in float32
        maths throughout where the engine was loaded with `EngineOptions(dtype="float32")`.

        Other requests move on meanwhile; what they put out is returned by the next `step`. Raises
        what `submit_score` raises, and `OutOfMemory`.
        """
        request_id = self.submit_score(ids)
        scores: list[float] = []
        others, self._outputs = self._outputs, []
        try:
            is_done = False
            while not is_done:
                for output in self.step():
                    if output.request_id != request_id:
                        others.append(output)
                        continue
                    scores += output.scores
                    is_done = output.finish_reason is not None
        finally:
            self.abort(request_id)
            self._outputs = others + self._outputs
        return scores

    def abort(self, request_id: RequestId) -> None:
        """Forget a request and free its blocks. Idempotent; what it computed stays reusable."""
        self._scheduler.remove(request_id)
        self._outputs = [x for x in self._outputs if x.request_id != request_id]

    def step(self) -> list[TokenOutput]:
        """Move every running request on: a chunk of its prompt or a token of its answer.

        Raises `OutOfMemory`, or `CheckpointError` when the model's file has been cut meanwhile.
        """
        outputs, self._outputs = self._outputs, []
        scheduled = self._scheduler.schedule()
        if scheduled:
            outputs += self._postprocess(scheduled, self._run(scheduled))
        return outputs

    def _run(self, scheduled: list[Scheduled]) -> StepResult:
        self.loaded.check_files()
        started = time.perf_counter()
        result = self._runner.run(scheduled, self._scheduler.copies, self._scheduler.state_copies)
        num_tokens = sum(item.num_tokens for item in scheduled)
        self._chunks.observe(num_tokens, time.perf_counter() - started)
        return result

    def _postprocess(self, scheduled: list[Scheduled], result: StepResult) -> list[TokenOutput]:
        choices, scores = iter(result.choices), iter(result.scores)
        outputs = []
        for item in scheduled:
            sequence = item.sequence
            prefill = prefill_progress(item)
            self._scheduler.commit(item)
            if item.is_sampled:
                output = advance(sequence, next(choices), prefill, self.context_window)
            elif sequence.is_scored:
                output = take_scores(sequence, next(scores), prefill)
            elif prefill is not None:
                output = TokenOutput(request_id=sequence.id, prefill=prefill)
            else:
                continue
            if output.finish_reason is not None:
                self._scheduler.remove(sequence.id)
            outputs.append(output)
        return outputs


def _configured(config: ModelConfig, options: EngineOptions, device: torch.device) -> ModelConfig:
    """The model with the window that was asked for. What would not fit even without the weights is
    refused before they are read."""
    config = with_context_window(config, options.context_window)
    plan_kv_cache(
        config,
        options,
        kv_dtype=cache_dtype(options, device),
        available_bytes=available_bytes(device),
    )
    return config
