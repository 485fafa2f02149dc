"""How the next token is chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """None means the model's own default (its generation config), not a constant of ours.

    `temperature` 0 is greedy. `repetition_penalty` counts prompt and output tokens, as in
    transformers. The same `seed` gives the same tokens, whatever else runs in the batch.
    `stop` strings end the answer and are not part of it.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
