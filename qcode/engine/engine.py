"""Tokens in, tokens out: requests are submitted, and each step moves all of them on."""

from __future__ import annotations

import queue
import time
from collections import abc, deque
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
from qcode.engine.memory.prefix_cache import (
    MIN_PARTIAL_TOKENS,
    MIN_TOKENS,
    open_prefix_cache,
)
from qcode.engine.memory.recurrent_state import RecurrentStates, plan_state_slots
from qcode.engine.model_config import ModelConfig
from qcode.engine.model_runner import ModelRunner, StepResult
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.outputs import (
    begin,
    choose_tokens,
    prefill_progress,
    take_scores,
)
from qcode.engine.requests import Requests
from qcode.engine.scheduling.block_pool import BlockPool
from qcode.engine.scheduling.scheduler import ChunkSizer, Scheduled, Scheduler
from qcode.engine.scheduling.sequence import RequestId, Sequence, TokenOutput
from qcode.engine.scheduling.state_pool import SNAPSHOT_SPACING, StatePool
from qcode.engine.speculation.drafter import Drafter
from qcode.engine.speculation.step_cost import StepCost, expected_growth
from qcode.protocol.sampling import SamplingParams

MAX_RESTORE_S = 0.25
"""In one step, for reading prefixes from disk."""


class Engine:
    """Synchronous; every method is called on one thread, the one that loaded it."""

    def __init__(
        self, loaded: LoadedModel, options: EngineOptions, *, path: Path | None = None
    ) -> None:
        """`path` is where the model was loaded from, and needed for prefixes to be kept on disk.

        Raises `OutOfMemory`."""
        device = choose_device(options.device)
        config = loaded.config
        kv_dtype = cache_dtype(options, device, context_window=config.context_window)
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
            key_channels=loaded.model.key_channels,
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
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Lines for the person, put there by any thread."""
        self._prefixes = open_prefix_cache(
            path,
            config,
            options,
            cache=cache,
            kv_dtype=kv_dtype,
            states=states,
            tell=self.notices.put,
        )
        self._chunks = ChunkSizer(
            max_tokens=options.max_chunk_tokens, target_s=options.chunk_target_s
        )
        # A recurrent state cannot be cut back to before the wrong part of a draft.
        speculates = options.speculation == "auto" and not self._num_state_slots
        cost = StepCost(expected_growth(config.experts))
        self._drafter = Drafter(cost) if speculates else None
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
            packed=options.packed_weights,
        )
        engine = cls(loaded, options, path=path)
        for line in loaded.notices:
            engine.notices.put(line)
        return engine

    @property
    def has_work(self) -> bool:
        return bool(self._outputs or self._restoring) or self._scheduler.has_work

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
            context_window=self.context_window,
            prefix_reuse=self._options.prefix_reuse,
            states=self._states if self._num_state_slots else None,
            drafter=self._drafter,
        )
        self._outputs: list[TokenOutput] = []
        self._restoring: deque[tuple[Sequence, abc.Generator[None]]] = deque()
        """Requests whose prefixes are read from disk before they are scheduled."""
        if self._prefixes is not None:
            states = self._states if self._num_state_slots else None
            self._prefixes.attach(self._pool, states)

    def close(self) -> None:
        """Wait a moment for what is still to be written to disk. No step may follow."""
        if self._prefixes is not None:
            self._prefixes.close()

    def submit(
        self,
        prompt: abc.Sequence[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        prefix_ids: abc.Sequence[int] = (),
        sources: abc.Sequence[abc.Sequence[int]] = (),
    ) -> RequestId:
        """Queue a request. `prefix_ids` continue the prompt and count as the answer's beginning:
        for `max_tokens`, for the seed, for penalties, for stop strings and for the constraint.
        `sources` are texts that the answer may repeat and that the prompt does not hold token by
        token, such as a file that it shows with line numbers: they can make the answer faster, and
        never another one.

        Raises `ContextOverflow` for a prompt without room for an answer, `EngineError` for ids
        out of the vocabulary, sampling values out of range or a prefix the constraint refuses.
        """
        sequence = self._requests.answer(prompt, sampling, constraint, prefix_ids)
        if self._drafter is not None:
            sequence.copied = self._drafter.begin(sequence.tokens, sources)
        output = begin(sequence, self.context_window)
        if output is not None:
            self._outputs.append(output)
        if output is None or output.finish_reason is None:
            self._add(sequence)
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
        for item in self._restoring:
            if item[0].id == request_id:
                self._restoring.remove(item)
                item[1].close()
                break
        self._scheduler.remove(request_id)
        self._outputs = [x for x in self._outputs if x.request_id != request_id]

    def step(self) -> list[TokenOutput]:
        """Move every running request on: a chunk of its prompt or a token of its answer.

        Raises `OutOfMemory`, or `CheckpointError` when the model's file has been cut meanwhile.
        """
        outputs, self._outputs = self._outputs, []
        self._restore_prefixes()
        scheduled = self._scheduler.schedule()
        if scheduled:
            outputs += self._postprocess(scheduled, self._run(scheduled))
        elif self._prefixes is not None:
            self._prefixes.settle(wait=True)  # blocks may be missing that are being written
        return outputs

    def _add(self, sequence: Sequence) -> None:
        if self._prefixes is None:
            self._scheduler.add(sequence)
        else:
            self._restoring.append((sequence, self._prefixes.restore(sequence)))

    def _restore_prefixes(self) -> None:
        """Read prefixes from disk, for no longer than other sequences can be kept waiting."""
        if self._prefixes is None:
            return
        self._prefixes.settle()
        deadline = time.perf_counter() + MAX_RESTORE_S
        while self._restoring:
            sequence, pieces = self._restoring[0]
            for _ in pieces:
                if time.perf_counter() > deadline:
                    return
            self._restoring.popleft()
            self._scheduler.add(sequence)

    def _run(self, scheduled: list[Scheduled]) -> StepResult:
        self.loaded.check_files()
        started = time.perf_counter()
        result = self._runner.run(scheduled, self._scheduler.copies, self._scheduler.state_copies)
        seconds = time.perf_counter() - started
        num_tokens = sum(item.num_tokens for item in scheduled)
        self._chunks.observe(num_tokens, seconds)
        if self._drafter is not None and all(
            item.num_rows == item.num_tokens for item in scheduled
        ):
            self._drafter.cost.observe(num_tokens, seconds)
        return result

    def _postprocess(self, scheduled: list[Scheduled], result: StepResult) -> list[TokenOutput]:
        steps = choose_tokens(scheduled, result.logits, self.context_window)
        scores = iter(result.scores)
        outputs = []
        for item in scheduled:
            sequence = item.sequence
            step = steps.get(sequence.id)
            if step is not None:
                self._scheduler.commit(item, step.num_computed_tokens)
                output = step.output
                if output.prefill is not None:
                    self._keep(sequence)
            else:
                prefill = prefill_progress(item)
                self._scheduler.commit(item, item.num_tokens)
                if sequence.is_scored:
                    output = take_scores(sequence, next(scores), prefill)
                elif prefill is not None:
                    output = TokenOutput(request_id=sequence.id, prefill=prefill)
                    self._keep(sequence, least=MIN_PARTIAL_TOKENS)
                else:
                    continue
            if output.finish_reason is not None:
                self._keep(sequence)
                self._scheduler.remove(sequence.id)
            outputs.append(output)
        return outputs

    def _keep(self, sequence: Sequence, *, least: int = MIN_TOKENS) -> None:
        if self._prefixes is not None:
            self._prefixes.keep(sequence, least=least)


def _configured(config: ModelConfig, options: EngineOptions, device: torch.device) -> ModelConfig:
    """The model with the window that was asked for. What would not fit even without the weights is
    refused before they are read."""
    config = with_context_window(config, options.context_window)
    plan_kv_cache(
        config,
        options,
        kv_dtype=cache_dtype(options, device, context_window=config.context_window),
        available_bytes=available_bytes(device),
    )
    return config
