"""From what a step computed for a sequence to what its request is told."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence

import torch
from torch import Tensor

from qcode.engine.sampling.sampler import Choice, SamplingRow, sample
from qcode.engine.scheduling.scheduler import Scheduled
from qcode.engine.scheduling.sequence import (
    FinishReason,
    Prefill,
    RequestId,
    Sequence,
    TokenLogprobs,
    TokenOutput,
)
from qcode.protocol.errors import EngineError


class AnswerStep:
    """What one step adds to one answer, token by token.

    Row i of a step's logits is what follows the draft's first i tokens. Each token is chosen just
    as it would be without a draft, by the state that the answer then has: the draft only says
    whether the next row can be used too. So an answer does not depend on its drafts.
    """

    def __init__(self, item: Scheduled, first_row: int, context_window: int) -> None:
        """`first_row` is that of the item's first row among all logits of the step."""
        self._item = item
        self._sequence = item.sequence
        self._first_row = first_row
        self._context_window = context_window
        self._prefill = prefill_progress(item)
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._num_forced = 0
        self._finish_reason: FinishReason | None = None
        self._error: EngineError | None = None

    @property
    def row(self) -> int | None:
        """The row of logits to choose from now; None when nothing more can be."""
        num_new = len(self._tokens)
        is_draft = self._num_accepted == num_new
        return self._first_row + num_new if is_draft and self._finish_reason is None else None

    @property
    def sampling_row(self) -> SamplingRow:
        sequence = self._sequence
        return SamplingRow(
            sampling=sequence.sampling,
            position=sequence.answer_position,
            adjustments=sequence.adjustments,
            allowed=sequence.constraint.allowed() if sequence.constraint is not None else None,
        )

    @property
    def num_computed_tokens(self) -> int:
        """Of the tokens the step computed: those that the answer turned out to have."""
        return self._item.num_tokens - len(self._item.draft) + self._num_accepted

    @property
    def output(self) -> TokenOutput:
        return TokenOutput(
            request_id=self._sequence.id,
            token_ids=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            num_draft_tokens=len(self._item.draft),
            num_accepted_tokens=self._num_accepted,
            num_forced_tokens=self._num_forced,
            prefill=self._prefill,
            finish_reason=self._finish_reason,
            error=self._error,
        )

    def take(self, choice: Choice) -> None:
        """Take the chosen token into the sequence, and what then is the only way to go on; or end
        the sequence."""
        sequence = self._sequence
        if choice.token in sequence.end_ids:
            self._finish_reason = "stop"
            return
        try:
            append(sequence, choice.token)
        except EngineError as error:
            self._finish_reason, self._error = "error", error
            return
        self._tokens.append(choice.token)
        if sequence.sampling.logprobs is not None:
            self._logprobs.append(
                TokenLogprobs(token_id=choice.token, logprob=choice.logprob, top=choice.top)
            )
        forced = append_forced(sequence, self._context_window)
        self._tokens += forced
        self._logprobs += logprobs_of_forced(sequence, forced)
        self._num_forced += len(forced)
        self._finish_reason = finish_reason(sequence, self._context_window)

    @property
    def _num_accepted(self) -> int:
        count = 0
        for token, guess in zip(self._tokens, self._item.draft, strict=False):
            if token != guess:
                break
            count += 1
        return count


@torch.inference_mode()
def choose_tokens(
    scheduled: AbstractSequence[Scheduled], logits: Tensor, context_window: int
) -> dict[RequestId, AnswerStep]:
    """Take all that one step's logits [R, V] float32, which are overwritten, say of its answers: a
    token of each, then one more of those whose draft had it, and so on."""
    steps: dict[RequestId, AnswerStep] = {}
    num_rows = 0
    for item in scheduled:
        if item.is_sampled:
            steps[item.sequence.id] = AnswerStep(item, num_rows, context_window)
            num_rows += item.num_rows
    while True:
        rows = [(step, row) for step in steps.values() if (row := step.row) is not None]
        if not rows:
            return steps
        at = [row for _, row in rows]
        picked = logits if len(at) == len(logits) else logits[at]
        choices = sample(picked, [step.sampling_row for step, _ in rows])
        for (step, _), choice in zip(rows, choices, strict=True):
            step.take(choice)


def append(sequence: Sequence, token: int) -> None:
    """Put a token at the end of an answer. Raises `EngineError` where its constraint forbids it."""
    if sequence.constraint is not None:
        sequence.constraint.consume(token)
    sequence.tokens.append(token)
    if sequence.adjustments is not None:
        sequence.adjustments.add(token)
    if sequence.text is not None:
        sequence.text.feed((token,))
    if sequence.copied is not None:
        sequence.copied.add(token)


def append_forced(sequence: Sequence, context_window: int) -> list[int]:
    """Put what its constraint leaves no choice about at the end of an answer, up to where the
    answer ends -> these tokens."""
    appended: list[int] = []
    if sequence.constraint is None:
        return appended
    for token in sequence.constraint.forced():
        if finish_reason(sequence, context_window) is not None:
            break
        append(sequence, token)
        appended.append(token)
    return appended


def logprobs_of_forced(
    sequence: Sequence, tokens: AbstractSequence[int]
) -> tuple[TokenLogprobs, ...]:
    """Where they were asked for: what is forced is certain, and has no alternative."""
    if sequence.sampling.logprobs is None:
        return ()
    return tuple(TokenLogprobs(token_id=id_, logprob=0.0, top=((id_, 0.0),)) for id_ in tokens)


def begin(sequence: Sequence, context_window: int) -> TokenOutput | None:
    """What an answer has before the network has been asked: the tokens that its constraint forces,
    which are then read with the prompt, and its end if it has reached that. None for nothing."""
    forced = append_forced(sequence, context_window)
    sequence.num_prompt_tokens += len(forced)
    sequence.num_answer_tokens += len(forced)
    reason = finish_reason(sequence, context_window)
    if not forced and reason is None:
        return None
    return TokenOutput(
        request_id=sequence.id,
        token_ids=tuple(forced),
        logprobs=logprobs_of_forced(sequence, forced),
        num_forced_tokens=len(forced),
        finish_reason=reason,
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
