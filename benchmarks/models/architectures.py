"""Every architecture on a tiny random checkpoint, beside transformers, in every way the engine
computes: the largest relative error of the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from random_checkpoint import FAMILIES, Family, random_vocabulary, write_safetensors

from benchmarks.models.engine_logits import (
    EXACT,
    Continuation,
    RecordedEngine,
    Transformers,
    relative_error,
)

WAYS = (
    "whole prefill",
    "prefill in chunks",
    "decoding",
    "batch",
    "prefix reuse",
    "rollback",
)
ARCHITECTURES: tuple[Family, ...] = FAMILIES
CHUNK = 7
NUM_TOKENS = random_vocabulary().num_tokens


def check_architecture(family: Family, folder: Path) -> Mapping[str, float]:
    """The error by way. `folder` is for files."""
    return check_checkpoint(write_safetensors(folder / family, family))


def check_checkpoint(path: Path, unpacked: Path | None = None) -> Mapping[str, float]:
    """`unpacked` has the weights of a quantised checkpoint in float32, for transformers."""
    reference = Transformers(unpacked or path)
    text, other = random_tokens(61, seed=3), random_tokens(23, seed=4)
    expected = reference.logits(text[:-1])
    whole = RecordedEngine(path)
    chunked = RecordedEngine(path, replace(EXACT, max_chunk_tokens=CHUNK))
    [decoded] = whole.answer(text[:12], num_tokens=24)
    batch = RecordedEngine(path).answer(text, other, text[:5], num_tokens=12)
    reuse, rollback = _reused(path, text, other)
    return dict(
        zip(
            WAYS,
            (
                relative_error(whole.prefill(text), expected),
                relative_error(chunked.prefill(text), expected),
                reference.error(decoded),
                max(reference.error(item) for item in batch),
                reference.error(reuse),
                reference.error(rollback),
            ),
            strict=True,
        )
    )


def _reused(path: Path, text: list[int], other: list[int]) -> tuple[Continuation, Continuation]:
    """An answer that goes on from an earlier one, and one that goes back to the middle of it."""
    engine = RecordedEngine(path)
    [first] = engine.answer(text[:40], num_tokens=12)
    [onward] = engine.answer([*first.tokens, *other], num_tokens=12)
    [back] = engine.answer([*text[:40], *other], num_tokens=12)
    for continuation in (onward, back):
        if not continuation.num_cached_tokens:
            raise RuntimeError(f"{path}: nothing was reused, so reuse was not checked")
    return onward, back


def random_tokens(count: int, *, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = torch.randint(0, NUM_TOKENS, (count,), generator=generator).tolist()
    return tokens
