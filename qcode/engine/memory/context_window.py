"""Context windows beyond a model's own: static YaRN on request, by the smallest factor that covers
the window (Peng et al., 2023).

YaRN changes short texts too, so nothing is scaled that fits the model's own window.
"""

from __future__ import annotations

from dataclasses import replace

from qcode.engine.checkpoint.config import yarn_magnitude
from qcode.engine.model_config import ModelConfig, YarnScaling
from qcode.protocol.errors import EngineError

MAX_FACTOR = 4
"""As far as the models' authors have tried it: 131,072 tokens from 32,768, 1M from 256K."""


def largest_context_window(config: ModelConfig) -> int:
    """Tokens the model can be asked to hold. A checkpoint that brings its own scaling has chosen
    its window; one without can be scaled."""
    return config.context_window * (1 if config.yarn else MAX_FACTOR)


def with_context_window(config: ModelConfig, window: int | None) -> ModelConfig:
    """The model with room for `window` tokens: itself where it has that, else scaled by YaRN.

    Raises `EngineError` naming the largest window there can be.
    """
    if window is None or window <= config.context_window:
        return config
    largest = largest_context_window(config)
    if window > largest:
        reach = "" if config.yarn else f", {config.context_window:,} without scaling"
        raise EngineError(
            f"a context of {window:,} tokens is more than this model can hold",
            f"The largest is --context {largest} ({largest:,} tokens{reach}).",
        )
    factor = window / config.context_window
    yarn = YarnScaling(
        factor=factor,
        original_context=config.context_window,
        attention_factor=yarn_magnitude(factor),
    )
    return replace(config, yarn=yarn, context_window=window)


def context_notice(config: ModelConfig, window: int | None) -> str | None:
    """What to tell a person who asks the checkpoint's `config` for `window` tokens; None where
    nothing changes for the asking. Raises `EngineError` as `with_context_window` does."""
    scaled = with_context_window(config, window)
    if scaled is config or scaled.yarn is None:
        return None
    return (
        f"Context {scaled.context_window:,}: YaRN factor {scaled.yarn.factor:.4g} is on; answers "
        "to short prompts may be slightly worse."
    )
