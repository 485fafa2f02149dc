"""Tokens in, tokens out: requests are submitted, and each step moves all of them on."""

from __future__ import annotations

import itertools
import time
from collections import abc
from pathlib import Path

import torch

from qcode.engine.block_pool import BlockPool
from qcode.engine.device import (
    activation_dtype,
    available_bytes,
    cache_dtype,
    choose_device,
    num_physical_cores,
)
from qcode.engine.grammar import Constraint, GrammarCompiler
from qcode.engine.kv_cache import KVCache, plan_kv_cache
from qcode.engine.model_runner import ModelRunner
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.engine.sampler import Choice, SeenTokens, resolve
from qcode.engine.scheduler import ChunkSizer, Scheduled, Scheduler
from qcode.engine.sequence import (
    FinishReason,
    Prefill,
    RequestId,
    Sequence,
    TokenOutput,
    TokenProbability,
)
from qcode.protocol.errors import ContextOverflow, EngineError
from qcode.protocol.sampling import SamplingParams


class Engine:
    """Synchronous; every method is called on one thread, the one that loaded it."""

    def __init__(self, loaded: LoadedModel, options: EngineOptions) -> None:
        """Raises `OutOfMemory`."""
        device = choose_device(options.device)
        dtype = cache_dtype(options, device)
        config = loaded.config
        plan = plan_kv_cache(config, options, dtype=dtype, available_bytes=available_bytes(device))
        self.loaded = loaded
        self.context_window = plan.context_window
        num_tokens = min(config.vocab_size, loaded.tokenizer.num_tokens)
        self._num_tokens = num_tokens
        self._eos_ids = loaded.tokenizer.eos_ids
        self.grammars = GrammarCompiler(
            loaded.tokenizer.encoding, num_tokens=num_tokens, eos_ids=sorted(self._eos_ids)
        )
        self._options = options
        self.num_blocks = plan.num_blocks
        cache = KVCache(
            config,
            num_blocks=plan.num_blocks,
            block_size=options.block_size,
            dtype=dtype,
            device=device,
        )
        self._runner = ModelRunner(
            loaded.model,
            cache,
            num_tokens=num_tokens,
            block_size=options.block_size,
            device=device,
        )
        self._chunks = ChunkSizer(
            max_tokens=options.max_chunk_tokens, target_s=options.chunk_target_s
        )
        self._request_ids = itertools.count(1)
        self.reset()

    @classmethod
    def load(
        cls,
        path: Path,
        options: EngineOptions,
        progress: abc.Callable[[float], None] | None = None,
    ) -> Engine:
        """Load a checkpoint. `progress` gets the share that is done; what it raises ends the
        loading. Raises `CheckpointError`, `UnsupportedModel`, `OutOfMemory`."""
        device = choose_device(options.device)
        # A thread count belongs to the thread that sets it: this one will run every step.
        torch.set_num_threads(options.num_threads or num_physical_cores())
        dtype = activation_dtype(options, device)
        loaded = load_model(path, dtype=dtype, device=device, progress=progress)
        return cls(loaded, options)

    @property
    def has_work(self) -> bool:
        return bool(self._finished_early) or self._scheduler.has_work

    @property
    def num_available_blocks(self) -> int:
        """Blocks of the cache that no request holds."""
        return self._pool.num_available

    def reset(self) -> None:
        """Forget every request and all cached prefixes, as after a step that failed midway."""
        self._pool = BlockPool(
            self.num_blocks, self._options.block_size, prefix_reuse=self._options.prefix_reuse
        )
        self._scheduler = Scheduler(
            self._pool, self._chunks, max_sequences=self._options.max_sequences
        )
        self._finished_early: list[TokenOutput] = []

    def submit(
        self,
        prompt: abc.Sequence[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        prefix_ids: abc.Sequence[int] = (),
        trace: bool = False,
    ) -> RequestId:
        """Queue a request. `prefix_ids` continue the prompt and count as the answer's beginning:
        for `max_tokens`, for the seed and for the constraint.

        Raises `ContextOverflow` for a prompt without room for an answer, `EngineError` for ids
        out of the vocabulary, sampling values out of range or a prefix the constraint refuses.
        """
        tokens = [*prompt, *prefix_ids]
        self._check_prompt(tokens)
        resolved = resolve(sampling, self.loaded.config.generation)
        if constraint is not None:
            for token in prefix_ids:
                constraint.consume(token)
        request_id = RequestId(next(self._request_ids))
        sequence = Sequence(
            id=request_id,
            tokens=tokens,
            num_prompt_tokens=len(tokens),
            num_answer_tokens=len(prefix_ids),
            max_tokens=sampling.max_tokens or self.context_window,
            sampling=resolved,
            constraint=constraint,
            trace=trace,
            seen=SeenTokens(tokens) if resolved.repetition_penalty != 1.0 else None,
        )
        finish_reason = self._finish_reason(sequence)
        if finish_reason is None:
            self._scheduler.add(sequence)
        else:
            output = TokenOutput(request_id=request_id, finish_reason=finish_reason)
            self._finished_early.append(output)
        return request_id

    def abort(self, request_id: RequestId) -> None:
        """Forget a request and free its blocks. Idempotent; what it computed stays reusable."""
        self._scheduler.remove(request_id)
        self._finished_early = [x for x in self._finished_early if x.request_id != request_id]

    def step(self) -> list[TokenOutput]:
        """Move every running request on: a chunk of its prompt or a token of its answer."""
        outputs, self._finished_early = self._finished_early, []
        scheduled = self._scheduler.schedule()
        if scheduled:
            choices = self._run(scheduled)
            outputs += self._postprocess(scheduled, choices)
        return outputs

    def _run(self, scheduled: list[Scheduled]) -> list[Choice]:
        started = time.perf_counter()
        choices = self._runner.run(scheduled, self._scheduler.copies)
        num_tokens = sum(item.num_tokens for item in scheduled)
        self._chunks.observe(num_tokens, time.perf_counter() - started)
        return choices

    def _postprocess(self, scheduled: list[Scheduled], choices: list[Choice]) -> list[TokenOutput]:
        chosen = iter(choices)
        outputs = []
        for item in scheduled:
            sequence = item.sequence
            prefill = _prefill(item)
            sequence.num_computed_tokens += item.num_tokens
            self._pool.commit(sequence)
            if item.is_sampled:
                output = self._advance(sequence, next(chosen), prefill)
                if output.finish_reason is not None:
                    self._scheduler.remove(sequence.id)
                outputs.append(output)
            elif prefill is not None:
                outputs.append(TokenOutput(request_id=sequence.id, prefill=prefill))
        return outputs

    def _advance(self, sequence: Sequence, choice: Choice, prefill: Prefill | None) -> TokenOutput:
        """Take the chosen token into the sequence, or end it."""
        token = choice.token
        if token in self._eos_ids:
            return TokenOutput(request_id=sequence.id, prefill=prefill, finish_reason="stop")
        if sequence.constraint is not None:
            try:
                sequence.constraint.consume(token)
            except EngineError as error:
                return TokenOutput(
                    request_id=sequence.id, prefill=prefill, finish_reason="error", error=error
                )
        sequence.tokens.append(token)
        if sequence.seen is not None:
            sequence.seen.add(token)
        return TokenOutput(
            request_id=sequence.id,
            token_ids=(token,),
            probabilities=(_probability(choice),) if sequence.trace else (),
            prefill=prefill,
            finish_reason=self._finish_reason(sequence),
        )

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.constraint is not None and sequence.constraint.is_complete:
            return "stop"
        if sequence.answer_position >= sequence.max_tokens:
            return "length"
        return "length" if sequence.num_tokens >= self.context_window else None

    def _check_prompt(self, tokens: list[int]) -> None:
        if not tokens:
            raise EngineError("the prompt is empty")
        if len(tokens) >= self.context_window:
            raise ContextOverflow(
                f"the prompt has {len(tokens)} tokens, the context window {self.context_window}",
                "Start a new session, or shorten the conversation.",
            )
        if min(tokens) < 0 or max(tokens) >= self._num_tokens:
            raise EngineError(f"a token id is out of the vocabulary of {self._num_tokens}")


def _prefill(item: Scheduled) -> Prefill | None:
    """What to report of a part of a prompt; nothing once the answer has begun."""
    sequence = item.sequence
    if sequence.num_sampled_tokens:
        return None
    return Prefill(
        done_tokens=sequence.num_computed_tokens + item.num_tokens,
        total_tokens=sequence.num_prompt_tokens,
        cached_tokens=sequence.num_cached_tokens,
    )


def _probability(choice: Choice) -> TokenProbability:
    return TokenProbability(
        token_id=choice.token,
        probability=choice.probability,
        runner_up_id=choice.runner_up,
        runner_up_probability=choice.runner_up_probability,
    )
