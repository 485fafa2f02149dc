"""The sizes that are told beforehand are those of published models, and those that are taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_checkpoint import FAMILIES, Family, random_config

from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.memory.budget import (
    MemoryBudget,
    budget,
    kv_bytes_per_token,
    scratch_bytes,
    state_bytes,
)
from qcode.engine.memory.context_window import with_context_window
from qcode.engine.memory.kv_cache import KVCache, KVCachePlan, plan_kv_cache
from qcode.engine.model_config import LinearAttentionConfig, ModelConfig
from qcode.engine.options import EngineOptions, KVDtype
from qcode.protocol.errors import OutOfMemory

GIB, MIB = 2**30, 2**20
CPU = torch.device("cpu")


def config_of(family: Family = "qwen3", **changes: object) -> ModelConfig:
    return config_from_json({**random_config(family), **changes}, {}, "config.json")


CODER_30B = config_of(
    num_hidden_layers=48, num_key_value_heads=4, head_dim=128, max_position_embeddings=262_144
)
CODER_480B = config_of(
    num_hidden_layers=62, num_attention_heads=96, num_key_value_heads=8, head_dim=128
)
CODER_NEXT = replace(
    config_of(num_hidden_layers=48, num_key_value_heads=2, head_dim=256),
    linear_attention=LinearAttentionConfig(
        num_key_heads=16,
        num_value_heads=32,
        key_head_dim=128,
        value_head_dim=128,
        conv_kernel_size=4,
        layers=frozenset(i for i in range(48) if (i + 1) % 4),
    ),
)


@pytest.mark.parametrize(
    ("config", "num_bytes"),
    [(CODER_30B, 98_304), (CODER_480B, 253_952), (CODER_NEXT, 24_576)],
    ids=["30B", "480B", "next"],
)
def test_keys_and_values_of_published_models(config: ModelConfig, num_bytes: int) -> None:
    assert kv_bytes_per_token(config, "bfloat16") == num_bytes
    assert kv_bytes_per_token(config, "auto") == num_bytes
    heads = 2 * len(config.attention_layers) * config.num_key_value_heads
    assert kv_bytes_per_token(config, "int8") == num_bytes // 2 + 4 * heads


def test_the_recurrent_state_of_a_published_model() -> None:
    recurrent, conv = 36 * 32 * 128 * 128 * 4, 36 * 8192 * 3 * 4
    assert recurrent == 72 * MIB
    assert state_bytes(CODER_NEXT) == recurrent + conv
    assert state_bytes(CODER_30B) == 0


def test_a_step_of_linear_attention_is_budgeted_by_its_own_widths() -> None:
    """For 512 tokens of Qwen3-Coder-Next: what is projected, put in order, normed and gated."""
    per_token = 2 * (8192 + 4096) + 3 * 4096
    full = 2 * (CODER_NEXT.num_attention_heads + 2 * 2) * 256
    without = replace(CODER_NEXT, linear_attention=None)
    more = scratch_bytes(CODER_NEXT) - scratch_bytes(without)
    assert more == 4 * 512 * (per_token - full)


def test_a_million_tokens_of_the_30b_on_one_machine() -> None:
    sizes = budget(
        with_context_window(CODER_30B, 2**20),
        weight_bytes=18 * GIB,
        kv_dtype="int8",
        context_window=2**20,
        available_bytes=128 * GIB,
    )
    assert sizes.kv_bytes == 2**20 * (48 * 1024 + 1536)
    assert sizes.total_bytes == (
        sizes.weight_bytes + sizes.kv_bytes + sizes.state_bytes + sizes.scratch_bytes
    )
    assert sizes.fits
    assert sizes.largest_context_window == 2**20


@pytest.mark.parametrize("available", [0, 1 * GIB, 20 * GIB, 30 * GIB])
def test_the_largest_window_fits_and_the_next_one_does_not(available: int) -> None:
    def sizes(window: int) -> MemoryBudget:
        return budget(
            CODER_30B,
            weight_bytes=18 * GIB,
            kv_dtype="float16",
            context_window=window,
            available_bytes=available,
        )

    largest = sizes(1).largest_context_window
    assert largest < 4 * 262_144
    assert sizes(largest).fits == (largest > 0)
    assert not sizes(largest + 1).fits


def test_the_models_own_window_is_budgeted_unless_another_is_asked_for() -> None:
    sizes = budget(
        CODER_30B, weight_bytes=0, kv_dtype="float16", context_window=None, available_bytes=GIB
    )
    assert (sizes.context_window, sizes.kv_bytes) == (262_144, 24 * GIB)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "float8", "int8"])
def test_the_cache_takes_what_was_computed(family: Family, kv_dtype: KVDtype) -> None:
    config = config_of(family)
    cache = KVCache(config, num_blocks=3, block_size=16, kv_dtype=kv_dtype, device=CPU)
    taken = sum(
        tensor.nbytes
        for layer in cache.layers
        for tensor in (layer.keys, layer.values, layer.key_scales, layer.value_scales)
        if tensor is not None
    )
    assert len(cache.layers) == len(config.attention_layers)
    assert taken == 3 * 16 * kv_bytes_per_token(config, kv_dtype)


def plan(
    available: int,
    kv_dtype: KVDtype = "float16",
    *,
    context_window: int | None = None,
    kv_memory_bytes: int | None = None,
) -> KVCachePlan:
    asked = EngineOptions(context_window=context_window, kv_memory_bytes=kv_memory_bytes)
    return plan_kv_cache(CODER_30B, asked, kv_dtype=kv_dtype, available_bytes=available)


def test_a_window_nobody_asked_for_shrinks_to_a_share_of_the_memory() -> None:
    assert plan(400 * GIB).context_window == 262_144
    small = plan(8 * GIB)
    assert small.context_window == 2 * GIB // 98_304 // 16 * 16
    assert small.num_blocks * 16 == small.context_window


def test_a_window_that_was_asked_for_may_take_more_than_that_share() -> None:
    asked = plan(8 * GIB, context_window=65_536)
    assert asked.context_window == 65_536
    assert asked.num_blocks * 16 * 98_304 < 7 * GIB


def test_a_window_that_does_not_fit_is_refused_with_the_sizes() -> None:
    with pytest.raises(OutOfMemory) as refusal:
        plan(8 * GIB, context_window=131_072)
    for part in ("131,072", "12.0 GiB", "float16", "96.0 KiB a token", "8.0 GiB are free"):
        assert part in refusal.value.message
    largest = int(refusal.value.hint.split()[2])
    assert "--kv-dtype int8" in refusal.value.hint
    assert plan(8 * GIB, context_window=largest).context_window == largest
    with pytest.raises(OutOfMemory):
        plan(8 * GIB, context_window=largest + 1)


def test_a_window_that_does_not_fit_the_budget_of_the_cache_is_refused() -> None:
    with pytest.raises(OutOfMemory, match=r"1.0 GiB set as the cache's budget"):
        plan(400 * GIB, context_window=131_072, kv_memory_bytes=GIB)


def test_eight_bits_hold_almost_twice_the_tokens() -> None:
    half, eighth = plan(8 * GIB), plan(8 * GIB, "int8")
    assert 1.9 < eighth.context_window / half.context_window < 2
