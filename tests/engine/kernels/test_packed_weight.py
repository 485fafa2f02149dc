"""Packed weights against the dequantised matrix, for every format and variant."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import dequantize

RandomTensor = Callable[..., Tensor]
PACKED = [
    GgmlType.Q4_0,
    GgmlType.Q5_0,
    GgmlType.Q8_0,
    GgmlType.Q4_K,
    GgmlType.Q5_K,
    GgmlType.Q6_K,
]
SCALE_OFFSETS = {GgmlType.Q4_K: (0, 2), GgmlType.Q5_K: (0, 2), GgmlType.Q6_K: (208,)}
every_format = pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)


def random_bytes(kind: GgmlType, rows: int, columns: int) -> Tensor:
    """Random blocks with finite scales of both signs."""
    block = BLOCK_LAYOUTS[kind]
    rng = np.random.default_rng(rows * 1000 + columns)
    count = rows * columns // block.block_size
    raw = rng.integers(0, 256, (count, block.block_bytes), dtype=np.uint8)
    for offset in SCALE_OFFSETS.get(kind, (0,)):
        scales = rng.uniform(-0.01, 0.01, (count, 1)).astype(np.float16)
        raw[:, offset : offset + 2] = scales.view(np.uint8)
    return torch.from_numpy(raw).view(rows, -1)


def columns_for(kind: GgmlType, groups: int) -> int:
    return groups * BLOCK_LAYOUTS[kind].block_size


def rounding_bound(x: Tensor, matrix: Tensor) -> Tensor:
    """Largest error [T, out] that rounding x to 8 bits in blocks of 32 can cause.

    Half a step, max|x| / 254, for every column of a block, and float32 rounding of the sums.
    """
    steps = x.unflatten(1, (-1, 32)).abs().amax(-1) / 254
    weights = matrix.abs().view(len(matrix), -1, 32).sum(-1)
    return 1.001 * steps @ weights.T + 2e-5 * x.abs() @ matrix.abs().T + 1e-37


@every_format
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 5, 8, 33])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_products_stay_within_the_rounding_of_x(
    library: KernelLibrary,
    kind: GgmlType,
    num_tokens: int,
    rows: int,
    random_tensor: RandomTensor,
) -> None:
    shape = (rows, columns_for(kind, 3))
    raw = random_bytes(kind, *shape)
    matrix = dequantize(raw, kind, shape)
    x = random_tensor(num_tokens, shape[1])
    product = PackedWeight(library, raw, kind, shape).linear(x)
    assert product.shape == (num_tokens, rows)
    error = (product - x @ matrix.T).abs()
    assert (error <= rounding_bound(x, matrix)).all()


@every_format
def test_relative_error_is_below_one_percent(
    library: KernelLibrary, kind: GgmlType, random_tensor: RandomTensor
) -> None:
    shape = (64, 2048)
    raw = random_bytes(kind, *shape)
    x = random_tensor(9, 2048)
    expected = x @ dequantize(raw, kind, shape).T
    product = PackedWeight(library, raw, kind, shape).linear(x)
    assert (product - expected).norm() / expected.norm() < 0.01


@every_format
def test_whole_numbers_are_multiplied_without_error(library: KernelLibrary, kind: GgmlType) -> None:
    """With 127 in every block the scale of x is one and nothing is rounded."""
    shape = (35, columns_for(kind, 2))
    raw = random_bytes(kind, *shape)
    matrix = dequantize(raw, kind, shape).double()
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(-127, 128, (6, shape[1]))).float()
    x[:, ::32] = 127
    x[1], x[2] = 127, -127
    product = PackedWeight(library, raw, kind, shape).linear(x)
    expected = x.double() @ matrix.T
    tolerance = 1e-6 * (x.double().abs() @ matrix.abs().T)
    assert ((product - expected).abs() <= tolerance).all()


@every_format
def test_extreme_activations(
    library: KernelLibrary, kind: GgmlType, random_tensor: RandomTensor
) -> None:
    shape = (17, columns_for(kind, 2))
    raw = random_bytes(kind, *shape)
    matrix = dequantize(raw, kind, shape)
    x = random_tensor(7, shape[1])
    x[0] = 0
    x[1] *= 1e30
    x[2] *= 1e-30
    x[3] = 0
    x[3, 5] = 1e20
    x[4, :32] = 0
    x[5] = 1e-44
    x[6, ::2] = -x[6, ::2].abs() * 1e6
    product = PackedWeight(library, raw, kind, shape).linear(x)
    assert torch.equal(product[0], torch.zeros(17))
    error = (product - x @ matrix.T).abs()
    assert (error <= rounding_bound(x, matrix)).all()


@every_format
def test_extreme_codes(library: KernelLibrary, kind: GgmlType) -> None:
    """All bits set and all bits clear, where sums of products are largest."""
    shape = (16, columns_for(kind, 1))
    for fill in (0, 255):
        raw = torch.full_like(random_bytes(kind, *shape), fill)
        blocks = raw.view(-1, BLOCK_LAYOUTS[kind].block_bytes)
        one = torch.tensor([1.0], dtype=torch.float16).view(torch.uint8)
        for offset in SCALE_OFFSETS.get(kind, (0,)):
            blocks[:, offset : offset + 2] = one
        matrix = dequantize(raw, kind, shape)
        x = torch.full((5, shape[1]), 127.0)
        x[1] = -127
        product = PackedWeight(library, raw, kind, shape).linear(x)
        torch.testing.assert_close(product, x @ matrix.T, rtol=1e-5, atol=1e-2)


@every_format
def test_many_tokens_take_several_passes(
    library: KernelLibrary, kind: GgmlType, random_tensor: RandomTensor
) -> None:
    shape = (16, 8960)
    raw = random_bytes(kind, *shape)
    weight = PackedWeight(library, raw, kind, shape)
    x = random_tensor(91, 8960)
    alone = torch.cat([weight.linear(row[None]) for row in x])
    torch.testing.assert_close(weight.linear(x), alone, rtol=1e-4, atol=1e-4)


@every_format
def test_rows_are_those_of_the_matrix(library: KernelLibrary, kind: GgmlType) -> None:
    shape = (37, columns_for(kind, 2))
    raw = random_bytes(kind, *shape)
    matrix = dequantize(raw, kind, shape)
    weight = PackedWeight(library, raw, kind, shape)
    torch.testing.assert_close(weight.dequantize(), matrix, rtol=1e-6, atol=1e-9)
    ids = torch.tensor([36, 0, 0, 15, 16])
    torch.testing.assert_close(weight.rows(ids), matrix[ids], rtol=1e-6, atol=1e-9)
    assert weight.shape == shape
    for outside in (-1, 37):
        with pytest.raises(IndexError):
            weight.rows(torch.tensor([0, outside]))


def test_unpackable_weights_are_refused(library: KernelLibrary) -> None:
    assert library.packed_bytes(GgmlType.Q2_K, (4, 256)) == 0
    assert library.packed_bytes(GgmlType.Q4_K, (4, 896)) == 0
    with pytest.raises(ValueError, match="not packed"):
        PackedWeight(library, torch.zeros(84, dtype=torch.uint8), GgmlType.Q2_K, (1, 256))


def test_x_of_the_wrong_width_is_refused(library: KernelLibrary) -> None:
    weight = PackedWeight(library, random_bytes(GgmlType.Q8_0, 4, 64), GgmlType.Q8_0, (4, 64))
    with pytest.raises(ValueError, match="32 input features"):
        weight.linear(torch.zeros(1, 32))


def test_the_dtype_of_x_is_kept(library: KernelLibrary, random_tensor: RandomTensor) -> None:
    weight = PackedWeight(library, random_bytes(GgmlType.Q8_0, 4, 64), GgmlType.Q8_0, (4, 64))
    x = random_tensor(2, 64).bfloat16()
    assert weight.linear(x).dtype == torch.bfloat16
    torch.testing.assert_close(weight.linear(x), weight.linear(x.float()).bfloat16())
