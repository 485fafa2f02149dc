"""Eight-bit floats: what each code means, and matrices rounded to them in blocks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantized_checkpoint import e4m3, e5m2, e8m0

from qcode.engine.quantization.fp8 import E4M3_MAX, decode_fp8, quantize_fp8_blocks

MEANINGS = {
    torch.float8_e4m3fn: e4m3,
    torch.float8_e5m2: e5m2,
    torch.float8_e8m0fnu: e8m0,
}


@pytest.mark.parametrize("dtype", MEANINGS, ids=str)
def test_every_code(dtype: torch.dtype) -> None:
    values = decode_fp8(torch.arange(256, dtype=torch.uint8).view(16, 16).view(dtype))
    assert values.shape == (16, 16)
    for code, value in enumerate(values.flatten().tolist()):
        expected = MEANINGS[dtype](code)
        assert value == expected or (math.isnan(value) and math.isnan(expected))


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    seed=st.integers(0, 9),
)
def test_rounding_errs_by_a_sixteenth_at_most(
    rows: int, columns: int, block: tuple[int, int], magnitude: float, seed: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * magnitude
    stored, scales = quantize_fp8_blocks(weight, block)
    assert stored.dtype == torch.float8_e4m3fn
    assert stored.shape == weight.shape
    assert scales.shape == (-(-rows // block[0]), -(-columns // block[1]))
    spread = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    spread = spread[:rows, :columns]
    error = (decode_fp8(stored) * spread - weight).abs()
    # Half a step of three mantissa bits; below the normal numbers half of their smallest step.
    assert (error <= (weight.abs() / 16).maximum(spread * 2**-10) * (1 + 1e-5)).all()
    assert decode_fp8(stored).abs().max() == E4M3_MAX


def test_blocks_of_zeros_and_of_almost_nothing() -> None:
    weight = torch.zeros(4, 8)
    weight[:, 4:] = 1e-44
    stored, scales = quantize_fp8_blocks(weight, (4, 4))
    assert (decode_fp8(stored) == 0).all()
    assert scales[0, 0] == 1
    assert (scales > 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    weight = torch.zeros(3, 3)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize_fp8_blocks(weight, (2, 2))
