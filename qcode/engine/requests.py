"""What is submitted, checked and made a sequence."""

from __future__ import annotations

import itertools
from collections import abc

from qcode.engine.grammar import Constraint
from qcode.engine.model_config import GenerationDefaults
from qcode.engine.sampling.sampler import logit_adjustments, resolve
from qcode.engine.sampling.stop_strings import StoppableText
from qcode.engine.scheduling.sequence import RequestId, Sequence
from qcode.engine.tokenizer import Tokenizer
from qcode.protocol.errors import ContextOverflow, EngineError
from qcode.protocol.sampling import SamplingParams


class Requests:
    """Gives each request its number. `num_tokens` is how many ids mean something."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        *,
        num_tokens: int,
        context_window: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._num_tokens = num_tokens
        self._context_window = context_window
        self._ids = itertools.count(1)

    def answer(
        self,
        prompt: abc.Sequence[int],
        sampling: SamplingParams,
        constraint: Constraint | None,
        prefix_ids: abc.Sequence[int],
    ) -> Sequence:
        """Raises what `Engine.submit` raises."""
        tokens = [*prompt, *prefix_ids]
        self._check_prompt(tokens)
        resolved = resolve(sampling, self._defaults, self._num_tokens)
        if constraint is not None:
            for token in prefix_ids:
                constraint.consume(token)
        own_ends = frozenset() if sampling.ignore_eos else self._tokenizer.eos_ids
        sequence = Sequence(
            id=self._next_id(),
            tokens=tokens,
            num_prompt_tokens=len(tokens),
            num_answer_tokens=len(prefix_ids),
            max_tokens=sampling.max_tokens or self._context_window,
            sampling=resolved,
            end_ids=own_ends.union(sampling.stop_ids),
            constraint=constraint,
            adjustments=logit_adjustments(resolved, prompt=prompt, output=prefix_ids),
        )
        if sampling.stop:
            sequence.text = StoppableText(self._tokenizer, sampling.stop)
            sequence.text.feed(prefix_ids)
        return sequence

    def score(self, ids: abc.Sequence[int]) -> Sequence:
        """Raises what `Engine.submit_score` raises."""
        tokens = list(ids)
        if len(tokens) < 2:
            raise EngineError(f"a text to score needs two tokens or more, this has {len(tokens)}")
        if len(tokens) > self._context_window:
            raise EngineError(
                f"the text has {len(tokens)} tokens, the context window {self._context_window}",
                "Score it in parts.",
            )
        self._check_ids(tokens)
        return Sequence(
            id=self._next_id(),
            tokens=tokens,
            num_prompt_tokens=len(tokens),
            num_answer_tokens=0,
            max_tokens=0,
            sampling=resolve(SamplingParams(), GenerationDefaults(), self._num_tokens),
            is_scored=True,
        )

    def _next_id(self) -> RequestId:
        return RequestId(next(self._ids))

    def _check_prompt(self, tokens: list[int]) -> None:
        if not tokens:
            raise EngineError("the prompt is empty")
        if len(tokens) >= self._context_window:
            raise ContextOverflow(
                f"the prompt has {len(tokens)} tokens, the context window {self._context_window}",
                "Start a new session, or shorten the conversation.",
            )
        self._check_ids(tokens)

    def _check_ids(self, tokens: list[int]) -> None:
        if min(tokens) < 0 or max(tokens) >= self._num_tokens:
            raise EngineError(f"a token id is out of the vocabulary of {self._num_tokens}")
