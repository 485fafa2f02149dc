"""How the next token is chosen."""

from __future__ import annotations

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """None means the model's own default (its generation config), not a constant of ours; where
    no model sets one, as with `min_p` and the two additive penalties, None changes nothing.

    `temperature` 0 is greedy. `top_k`, `top_p` and `min_p` leave out unlikely tokens: all but the
    best `top_k`, those beyond the share `top_p`, those less likely than `min_p` times the best.

    `repetition_penalty` counts prompt and output tokens, as in transformers. `presence_penalty`
    is taken once from the logit of each token of the output so far, `frequency_penalty` once for
    each time it came, as OpenAI defines them: the prompt does not count. `logit_bias` is added to
    the logits of the tokens it names, as (token id, bias) pairs.

    The same `seed` gives the same tokens, whatever else runs in the batch.

    `stop` strings and tokens in `stop_ids` end the answer and are not part of its text; an empty
    string stops nothing. `ignore_eos` takes the model's own end tokens for ordinary ones.

    `logprobs` asks for the log-probability of each chosen token and of that many of the most
    likely ones, 0 for the chosen alone.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
