"""Runs requests on an engine until they are done, and gathers what each was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qcode.engine.engine import Engine
from qcode.engine.scheduling.sequence import FinishReason, Prefill, RequestId, TokenLogprobs
from qcode.protocol.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=12)


@dataclass
class Result:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prefills: list[Prefill] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def run(engine: Engine, *requests: RequestId) -> list[Result]:
    """Step until everything is done."""
    results = {request: Result() for request in requests}
    while engine.has_work:
        for output in engine.step():
            result = results[output.request_id]
            assert result.finish_reason is None
            result.ids += output.token_ids
            result.logprobs += output.logprobs
            result.prefills += [output.prefill] if output.prefill else []
            result.finish_reason = output.finish_reason
    return list(results.values())


def answer(engine: Engine, prompt: Sequence[int], sampling: SamplingParams = GREEDY) -> list[int]:
    return run(engine, engine.submit(prompt, sampling))[0].ids


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 380, (length,), generator=generator).tolist()
