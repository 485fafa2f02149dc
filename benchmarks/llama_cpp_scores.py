"""How likely llama.cpp holds given tokens. Needs llama-cpp-python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

SETTINGS: dict[str, Any] = {"n_ctx": 256, "n_threads": 2, "logits_all": True}
"""The rest is as llama.cpp has it: activations rounded to 8 bits, keys and values in float16."""


def open_for_scoring(model: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(model), **SETTINGS, verbose=False)


def log_probabilities(llama: llama_cpp.Llama, ids: Sequence[int]) -> list[float]:
    """Of each token after the first, given those before it."""
    llama.reset()  # type: ignore[no-untyped-call]
    llama.eval(ids)
    logits = llama.scores[: len(ids) - 1].astype(np.float64)
    best = logits.max(axis=-1)
    totals = best + np.log(np.exp(logits - best[:, None]).sum(axis=-1))
    chosen = logits[np.arange(len(ids) - 1), list(ids[1:])]
    return [float(score) for score in chosen - totals]
