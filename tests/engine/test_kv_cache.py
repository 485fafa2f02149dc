"""Keys and values in every number format: close to float32, and the same when they are reused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import FAMILIES, Family, write_safetensors

from qcode.engine.device import cache_dtype
from qcode.engine.engine import Engine
from qcode.engine.kernels import write_cache
from qcode.engine.kernels.reference import quantize
from qcode.engine.layers.attention import key_channels
from qcode.engine.memory.kv_cache import TORCH_DTYPES, KVCache
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions, KVDtype
from qcode.engine.scheduling.block_pool import BlockCopy
from qcode.engine.scheduling.sequence import TokenLogprobs
from qcode.protocol.sampling import SamplingParams

CPU = torch.device("cpu")
OPTIONS = EngineOptions(num_threads=1, kv_dtype="float32")
BOUNDS: dict[KVDtype, float] = {
    "float16": 2e-3,
    "bfloat16": 3e-2,
    "int8": 5e-2,
    "float8": 1.5e-1,
}
"""How far log-probabilities may be from those with a float32 cache (root of the mean square: where
rounding makes a token take another expert, a single one may be further off)."""

TOKENS = torch.randint(0, 380, (100,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    family: Family = request.param
    return load_model(write_safetensors(tmp_path_factory.mktemp(family), family))


@pytest.mark.parametrize("kv_dtype", BOUNDS)
def test_scores_are_close_to_those_with_a_float32_cache(
    loaded: LoadedModel, kv_dtype: KVDtype
) -> None:
    exact = torch.tensor(Engine(loaded, OPTIONS).score(TOKENS))
    rounded = torch.tensor(Engine(loaded, replace(OPTIONS, kv_dtype=kv_dtype)).score(TOKENS))
    difference = (rounded - exact).square().mean().sqrt()
    assert 0 < difference < BOUNDS[kv_dtype]


def answered(engine: Engine, prompt: list[int]) -> tuple[list[TokenLogprobs], int]:
    """What is put out, with the log-probabilities, and how much of the prompt was reused."""
    sampling = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=6, logprobs=1)
    engine.submit(prompt, sampling)
    tokens: list[TokenLogprobs] = []
    num_cached = 0
    while engine.has_work:
        for output in engine.step():
            tokens += output.logprobs
            num_cached = output.prefill.cached_tokens if output.prefill else num_cached
    return tokens, num_cached


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8", "float8"])
def test_a_reused_prefix_gives_what_computing_it_gives(
    loaded: LoadedModel, kv_dtype: KVDtype
) -> None:
    """The prefix ends within a block, which is copied with its scales."""
    common, end, other_end = TOKENS[:70], TOKENS[70:75], TOKENS[80:90]
    if loaded.config.linear_attention is not None:
        end = []  # a recurrent state is kept of where a prompt ends
    options = replace(OPTIONS, kv_dtype=kv_dtype)
    engine = Engine(loaded, options)
    answered(engine, common + end)
    reused, num_cached = answered(engine, common + other_end)
    fresh, none_cached = answered(Engine(loaded, options), common + other_end)
    assert none_cached == 0
    assert num_cached >= 69
    assert [token.token_id for token in reused] == [token.token_id for token in fresh]
    for one, other in zip(reused, fresh, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=BOUNDS[kv_dtype])


@pytest.mark.parametrize("kv_dtype", TORCH_DTYPES)
def test_a_block_is_copied_whole(loaded: LoadedModel, kv_dtype: KVDtype) -> None:
    cache = KVCache(loaded.config, num_blocks=3, block_size=4, kv_dtype=kv_dtype, device=CPU)
    tensors = [
        tensor
        for layer in cache.layers
        for tensor in (layer.keys, layer.values, layer.key_scales, layer.value_scales)
        if tensor is not None
    ]
    for number, tensor in enumerate(tensors):
        for block in range(3):
            tensor[block] = number + 10 * block

    cache.copy(
        [BlockCopy(source=0, target=1, num_slots=3), BlockCopy(source=1, target=2, num_slots=1)]
    )

    for number, tensor in enumerate(tensors):
        values = tensor.float().transpose(1, 2).flatten(2)[:, :, -1].tolist()
        rounded = torch.tensor([number, number + 10, number + 20]).to(tensor.dtype).tolist()
        own, first, second = (float(value) for value in rounded)
        assert values == [[own] * 4, [own] * 3 + [first], [own] + [second] * 3]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(rows=st.lists(st.lists(finite, min_size=16, max_size=16), min_size=1, max_size=4))
def test_what_is_quantised_stays_within_its_step(rows: list[list[float]]) -> None:
    x = torch.tensor(rows)
    largest = x.abs().amax(-1, keepdim=True).double()
    for dtype in (torch.int8, torch.float8_e4m3fn):
        values, scales = quantize(x, dtype)
        back = values.double() * scales.double().unsqueeze(-1)
        if dtype == torch.int8:
            allowed = largest / 127 * 0.501
        else:
            # Three bits of mantissa; below the smallest normal value the step stays the same.
            allowed = torch.maximum(x.double().abs() / 15.9, largest / 448 * 2**-10)
        # Values that no float32 scale can divide are lost.
        assert ((back - x.double()).abs() <= allowed + 1e-36).all()
        assert (values.float().abs() <= (127 if dtype == torch.int8 else 448)).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_zeros_stay_zeros(dtype: torch.dtype) -> None:
    values, scales = quantize(torch.zeros(2, 3, 16), dtype)
    assert not values.float().any()
    assert not scales.any()


def test_who_asks_for_float32_gets_a_float32_cache() -> None:
    def chosen(window: int, options: EngineOptions) -> KVDtype:
        return cache_dtype(options, CPU, context_window=window)

    exact = EngineOptions(dtype="float32")
    assert chosen(131_072, exact) == "float32"
    assert chosen(2048, replace(exact, kv_dtype="int8")) == "int8"


def test_a_long_window_is_kept_in_eight_bits() -> None:
    def chosen(window: int, asked: int | None) -> KVDtype:
        return cache_dtype(EngineOptions(context_window=asked), CPU, context_window=window)

    assert chosen(16_384, None) == "float16"
    assert chosen(16_385, None) == "int8"
    assert chosen(131_072, 16_384) == "float16"
    assert chosen(131_072, 32_768) == "int8"


def test_keys_with_a_large_bias_keep_their_small_dimensions() -> None:
    """As Qwen2.5's: the same in every key, a hundred times what the inputs make of the others."""
    generator = torch.Generator().manual_seed(4)
    keys = torch.randn(40, 2, 64, generator=generator)
    bias = torch.zeros(2, 64)
    bias[0, 5], bias[0, 37], bias[1, 40] = 200.0, -90.0, 60.0
    channels = key_channels(bias.flatten(), 64, 64)
    errors = []
    for divisors in (None, channels):
        values = torch.zeros(3, 2, 16, 64, dtype=torch.int8)
        scales = torch.zeros(3, 2, 16)
        slots = torch.arange(40)
        write_cache(
            keys + bias, keys, slots, values, values.clone(), scales, scales.clone(), divisors
        )
        back = (values * scales.unsqueeze(-1)).transpose(1, 2).flatten(0, 1)[:40]
        if divisors is not None:
            back *= divisors
        small = bias == 0
        errors.append((back - keys - bias)[:, small].square().mean().sqrt())
    assert errors[1] < errors[0] / 4
    assert torch.equal(channels[:, :32], channels[:, 32:])
    assert channels.amin() == 1
