"""One request: its tokens, its blocks, where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NewType

from qcode.engine.grammar import Constraint
from qcode.engine.sampler import ResolvedSampling, SeenTokens
from qcode.protocol.errors import EngineError

RequestId = NewType("RequestId", int)
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProbability:
    """How likely the model itself held one chosen token, and the best of the others, among the
    tokens its constraint allowed: before temperature, penalty and truncation."""

    token_id: int
    probability: float
    runner_up_id: int
    runner_up_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """How much of the prompt has been read; `cached_tokens` of it were reused."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOutput:
    """What one step did for one request. The token that ends an answer is not in `token_ids`."""

    request_id: RequestId
    token_ids: tuple[int, ...] = ()
    probabilities: tuple[TokenProbability, ...] = ()
    prefill: Prefill | None = None
    finish_reason: FinishReason | None = None
    error: EngineError | None = None
    """Why, when the finish reason is "error"."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`tokens` holds the prompt, then what was sampled. `num_answer_tokens` of the prompt already
    belong to the answer (an earlier answer that this one continues), so that seeds and
    `max_tokens` count from where the answer began."""

    id: RequestId
    tokens: list[int]
    num_prompt_tokens: int
    num_answer_tokens: int
    max_tokens: int
    sampling: ResolvedSampling
    constraint: Constraint | None = None
    trace: bool = False
    seen: SeenTokens | None = None
    """Only where a repetition penalty needs it."""

    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """One for each full block whose keys and values are computed; owned by `BlockPool`."""
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    """How many tokens were reused when the sequence was first admitted."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.tokens) - self.num_computed_tokens

    @property
    def num_sampled_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def answer_position(self) -> int:
        """The index, in the whole answer, of the token to be sampled next."""
        return self.num_answer_tokens + self.num_sampled_tokens
