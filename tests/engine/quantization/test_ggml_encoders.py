"""Encoding to ggml's blocks: layouts against the `gguf` package, errors against its own bounds."""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf.quants import dequantize as gguf_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import dequantize
from qcode.engine.quantization.ggml_encoders import (
    ENCODERS,
    VALUES_AT_ONCE,
    NotEncodable,
    encode,
)

# The relative error (root mean square) that ggml's own quantisers leave on normally distributed
# weights, measured with ggml_quantize_chunk of llama.cpp; ours may be two percent above.
GGML_ERRORS = {
    GgmlType.Q4_0: 0.0861,
    GgmlType.Q5_0: 0.0427,
    GgmlType.Q5_1: 0.0379,
    GgmlType.Q8_0: 0.00536,
    GgmlType.Q4_K: 0.0714,
    GgmlType.Q5_K: 0.0361,
    GgmlType.Q6_K: 0.0178,
}
BLOCK_KINDS = pytest.mark.parametrize("kind", list(ENCODERS), ids=lambda kind: kind.name)


def decoded(packed: torch.Tensor, kind: GgmlType) -> torch.Tensor:
    """By the `gguf` package."""
    kind_there = gguf.GGMLQuantizationType(int(kind))
    return torch.from_numpy(gguf_dequantize(packed.numpy(), kind_there)).float()


def random_rows(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.02


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@BLOCK_KINDS
def test_normal_weights_are_kept_as_well_as_ggml_keeps_them(kind: GgmlType) -> None:
    rows = random_rows(300, 1024)
    assert rows.numel() > VALUES_AT_ONCE
    packed = encode(rows, kind)
    layout = BLOCK_LAYOUTS[kind]
    assert packed.shape == (300, 1024 // layout.block_size * layout.block_bytes)
    assert relative_error(decoded(packed, kind), rows) < 1.02 * GGML_ERRORS[kind]


@BLOCK_KINDS
def test_our_decoder_reads_what_the_gguf_package_reads(kind: GgmlType) -> None:
    packed = encode(random_rows(5, 512), kind)
    ours = dequantize(packed, kind, (5, 512))
    torch.testing.assert_close(ours, decoded(packed, kind), rtol=3e-7, atol=1e-8)


@BLOCK_KINDS
@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_constants_are_exact(kind: GgmlType, value: float) -> None:
    rows = torch.full((2, 256), value)
    torch.testing.assert_close(decoded(encode(rows, kind), kind), rows, rtol=2e-3, atol=0)


@BLOCK_KINDS
def test_one_outlier_survives(kind: GgmlType) -> None:
    rows = random_rows(1, 256)
    rows[0, 77] = -30.0
    back = decoded(encode(rows, kind), kind)
    assert back[0, 77].item() == pytest.approx(-30.0, rel=0.1)
    assert relative_error(back, rows) < 0.1


@BLOCK_KINDS
@pytest.mark.parametrize("tiny", [1e-40, 1e-30, 1e-9])
def test_values_below_what_scales_can_say_become_zero(kind: GgmlType, tiny: float) -> None:
    rows = random_rows(2, 256) * tiny
    back = decoded(encode(rows, kind), kind)
    assert back.isfinite().all()
    assert (back - rows).abs().max() <= 2 * rows.abs().max()


@BLOCK_KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e38])
@pytest.mark.parametrize("place", [0, 255])
def test_values_without_a_code_are_refused(kind: GgmlType, bad: float, place: int) -> None:
    rows = random_rows(3, 256)
    rows[1, place] = bad
    with pytest.raises(NotEncodable):
        encode(rows, kind)


@pytest.mark.parametrize("kind", [GgmlType.F32, GgmlType.F16, GgmlType.BF16])
def test_floats_are_cast(kind: GgmlType) -> None:
    rows = random_rows(3, 10)
    torch.testing.assert_close(
        dequantize(encode(rows, kind), kind, (3, 10)), rows, rtol=4e-3, atol=0
    )
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NotEncodable):
            encode(torch.tensor([[1.0, bad]]), kind)


def test_half_precision_overflows_are_refused() -> None:
    with pytest.raises(NotEncodable):
        encode(torch.tensor([[1.0, 1e5]]), GgmlType.F16)


@BLOCK_KINDS
def test_a_stack_of_matrices_is_rows_like_any(kind: GgmlType) -> None:
    stack = random_rows(6, 256).view(3, 2, 256)
    assert torch.equal(encode(stack, kind).flatten(0, 1), encode(stack.flatten(0, 1), kind))
    assert torch.equal(encode(stack.bfloat16(), kind), encode(stack.bfloat16().float(), kind))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(ENCODERS)),
    seed=st.integers(0, 2**31),
    spread=st.floats(1e-3, 1e3),
    shift=st.floats(-2, 2),
    zeros=st.floats(0, 1),
)
def test_no_value_is_further_off_than_a_step(
    kind: GgmlType, seed: int, spread: float, shift: float, zeros: float
) -> None:
    """A step is the range of the block over the number of levels; a search may clip a little."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(4, 256, generator=generator) + shift) * spread
    rows[torch.rand(rows.shape, generator=generator) < zeros] = 0
    back = decoded(encode(rows, kind), kind)
    levels = {GgmlType.Q4_0: 8, GgmlType.Q4_K: 8, GgmlType.Q8_0: 127}.get(kind, 16)
    blocks = rows.view(4, -1, BLOCK_LAYOUTS[kind].block_size)
    step = blocks.abs().amax(2, keepdim=True) / levels
    assert ((back.view_as(blocks) - blocks).abs() <= 1.7 * step + 1e-6).all()
