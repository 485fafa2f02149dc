"""One request: its tokens, its blocks, where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NewType

from qcode.engine.grammar import Constraint
from qcode.engine.sampling.logit_adjustments import LogitAdjustments
from qcode.engine.sampling.sampler import ResolvedSampling
from qcode.engine.sampling.stop_strings import StoppableText
from qcode.engine.speculation.drafter import CopiedText
from qcode.protocol.errors import EngineError

RequestId = NewType("RequestId", int)
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """The log-probability of one chosen token and of the most likely tokens, by the model's own
    distribution over the tokens its constraint allowed: before bias, penalties, temperature and
    truncation."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, log-probability), the most likely first; the chosen token may be among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """How much of the prompt has been read; `cached_tokens` of it were reused."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOutput:
    """What one step did for one request.

    An end token (the model's, or one of `stop_ids`) is not in `token_ids`. A stop string may end
    in the middle of a token and is told from text, so all of its tokens are there; the text of an
    answer is cut by `StoppableText`.
    """

    request_id: RequestId
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each of `token_ids` where the request asked for them."""
    scores: tuple[float, ...] = ()
    """Of a text to score: the log-probabilities of its next tokens."""
    num_draft_tokens: int = 0
    """Tokens that were guessed and checked in this step."""
    num_accepted_tokens: int = 0
    """How many of them were right, so that they are among `token_ids`."""
    num_forced_tokens: int = 0
    """How many of `token_ids` were not chosen, because the constraint left nothing else."""
    prefill: Prefill | None = None
    finish_reason: FinishReason | None = None
    error: EngineError | None = None
    """Why, when the finish reason is "error"."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`tokens` holds the prompt, then what was sampled. `num_answer_tokens` of the prompt already
    belong to the answer (an earlier answer that this one continues), so that seeds and
    `max_tokens` count from where the answer began.

    A sequence that `is_scored` is a text of which each token's log-probability is wanted: nothing
    is sampled, and nothing is taken from the prefix cache, which has no logits.
    """

    id: RequestId
    tokens: list[int]
    num_prompt_tokens: int
    num_answer_tokens: int
    max_tokens: int
    sampling: ResolvedSampling
    end_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    adjustments: LogitAdjustments | None = None
    text: StoppableText | None = None
    """Only where there are stop strings to look for."""
    copied: CopiedText | None = None
    """Only where drafts may be made."""
    is_scored: bool = False
    num_scores: int = 0
    """How many tokens have been scored; not lost when its blocks are."""

    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """One for each full block whose keys and values are computed; owned by `BlockPool`."""
    state_slot: int | None = None
    """Where its recurrent state is while it runs; owned by `StatePool`."""
    num_computed_tokens: int = 0
    num_admitted_tokens: int = 0
    """How many tokens it had when it was admitted: up to there it is read in chunks."""
    num_cached_tokens: int = 0
    """How many tokens were reused when the sequence was first admitted."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.tokens) - self.num_computed_tokens

    @property
    def is_read(self) -> bool:
        """All that was there when it was admitted is computed: its answer goes on."""
        return self.num_computed_tokens >= self.num_admitted_tokens

    @property
    def num_sampled_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_unscored_tokens(self) -> int:
        """Tokens whose log-probability is still wanted: all but the first."""
        return len(self.tokens) - 1 - self.num_scores

    @property
    def answer_position(self) -> int:
        """The index, in the whole answer, of the token to be sampled next."""
        return self.num_answer_tokens + self.num_sampled_tokens
