"""From what a step computed for a sequence to what its request is told."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence

from qcode.engine.sampling.sampler import Choice
from qcode.engine.scheduling.scheduler import Scheduled
from qcode.engine.scheduling.sequence import (
    FinishReason,
    Prefill,
    Sequence,
    TokenLogprobs,
    TokenOutput,
)
from qcode.protocol.errors import EngineError


def advance(
    sequence: Sequence, choice: Choice, prefill: Prefill | None, context_window: int
) -> TokenOutput:
    """Take the chosen token into the sequence, or end it."""
    token = choice.token
    if token in sequence.end_ids:
        return TokenOutput(request_id=sequence.id, prefill=prefill, finish_reason="stop")
    if sequence.constraint is not None:
        try:
            sequence.constraint.consume(token)
        except EngineError as error:
            return TokenOutput(
                request_id=sequence.id, prefill=prefill, finish_reason="error", error=error
            )
    sequence.tokens.append(token)
    if sequence.adjustments is not None:
        sequence.adjustments.add(token)
    if sequence.text is not None:
        sequence.text.feed((token,))
    logprobs = TokenLogprobs(token_id=token, logprob=choice.logprob, top=choice.top)
    return TokenOutput(
        request_id=sequence.id,
        token_ids=(token,),
        logprobs=(logprobs,) if sequence.sampling.logprobs is not None else (),
        prefill=prefill,
        finish_reason=finish_reason(sequence, context_window),
    )


def finish_reason(sequence: Sequence, context_window: int) -> FinishReason | None:
    """Why an answer ends with the tokens it has, if it does."""
    if sequence.constraint is not None and sequence.constraint.is_complete:
        return "stop"
    if sequence.text is not None and sequence.text.is_stopped:
        return "stop"
    if sequence.answer_position >= sequence.max_tokens:
        return "length"
    return "length" if sequence.num_tokens >= context_window else None


def take_scores(
    sequence: Sequence, scores: AbstractSequence[float], prefill: Prefill | None
) -> TokenOutput:
    """The next scores of a text, the last of which end the request."""
    sequence.num_scores += len(scores)
    return TokenOutput(
        request_id=sequence.id,
        scores=tuple(scores),
        prefill=prefill,
        finish_reason="stop" if sequence.num_unscored_tokens == 0 else None,
    )


def prefill_progress(item: Scheduled) -> Prefill | None:
    """What to report of a part of a prompt; nothing once the answer has begun."""
    sequence = item.sequence
    if sequence.num_sampled_tokens:
        return None
    return Prefill(
        done_tokens=sequence.num_computed_tokens + item.num_tokens,
        total_tokens=sequence.num_prompt_tokens,
        cached_tokens=sequence.num_cached_tokens,
    )
