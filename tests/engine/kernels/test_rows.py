"""Products with weights kept as their file holds them, for every format and variant."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import dequantize

RandomTensor = Callable[..., Tensor]
HALF_OFFSETS = {
    GgmlType.Q4_1: (0, 2),
    GgmlType.Q5_1: (0, 2),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q6_K: (208,),
    GgmlType.MXFP4: (),
}
"""Where the half-precision scales of a block are; at its start where nothing is said."""

every_format = pytest.mark.parametrize("kind", GgmlType, ids=lambda kind: kind.name)


def random_weight(kind: GgmlType, rows: int, columns: int) -> Tensor:
    """The bytes of a weight [rows, columns]: any codes, with finite scales of both signs."""
    block = BLOCK_LAYOUTS[kind]
    rng = np.random.default_rng(rows * 1000 + columns)
    count = rows * columns // block.block_size
    raw = rng.integers(0, 256, (count, block.block_bytes), dtype=np.uint8)
    if kind == GgmlType.F32:
        raw = rng.standard_normal((count, 1), dtype=np.float32).view(np.uint8)
    elif kind == GgmlType.F16:
        raw = rng.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
    elif kind == GgmlType.BF16:
        raw[:, 1] = rng.integers(60, 64, count) + 128 * rng.integers(0, 2, count)
    elif kind == GgmlType.MXFP4:
        raw[:, 0] = rng.integers(110, 122, count)
    else:
        for offset in HALF_OFFSETS.get(kind, (0,)):
            scales = rng.uniform(-0.01, 0.01, (count, 1)).astype(np.float16)
            raw[:, offset : offset + 2] = scales.view(np.uint8)
    return torch.from_numpy(raw).reshape(rows, -1)


def columns_for(kind: GgmlType, count: int) -> int:
    """About `count` columns that the format can hold; floats get a width that fits no vector."""
    block_size = BLOCK_LAYOUTS[kind].block_size
    return count + 5 if block_size == 1 else -(-count // block_size) * block_size


def assert_products(actual: Tensor, x: Tensor, matrix: Tensor) -> None:
    """Equal to the product in float64 but for float32 rounding of the sums."""
    assert actual.shape == (len(x), len(matrix))
    expected = x.double() @ matrix.double().T
    rounding = 2e-6 * (x.double().abs() @ matrix.double().abs().T) + 1e-30
    assert ((actual - expected).abs() <= rounding).all()


@every_format
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 4, 7, 33])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_products_are_those_of_the_dequantised_matrix(
    library: KernelLibrary,
    kind: GgmlType,
    num_tokens: int,
    rows: int,
    random_tensor: RandomTensor,
) -> None:
    shape = (rows, columns_for(kind, 1280))
    raw = random_weight(kind, *shape)
    x = random_tensor(num_tokens, shape[1])
    actual = library.multiply_rows(raw, kind, shape, x)
    assert_products(actual, x, dequantize(raw, kind, shape))


@every_format
@pytest.mark.parametrize("fill", [0, 255])
def test_extreme_codes(library: KernelLibrary, kind: GgmlType, fill: int) -> None:
    """All bits clear and all bits set, with a scale of one."""
    shape = (5, columns_for(kind, 256))
    raw = random_weight(kind, *shape)
    if BLOCK_LAYOUTS[kind].block_size > 1:
        raw.fill_(fill)
        blocks = raw.view(-1, BLOCK_LAYOUTS[kind].block_bytes)
        one = torch.tensor([1.0], dtype=torch.float16).view(torch.uint8)
        for offset in HALF_OFFSETS.get(kind, (0,)):
            blocks[:, offset : offset + 2] = one
        if kind == GgmlType.MXFP4:
            blocks[:, 0] = 127
    x = torch.full((4, shape[1]), 1.5)
    x[1] *= -1
    assert_products(library.multiply_rows(raw, kind, shape, x), x, dequantize(raw, kind, shape))


@every_format
def test_rows_are_those_of_the_matrix(library: KernelLibrary, kind: GgmlType) -> None:
    shape = (37, columns_for(kind, 512))
    raw = random_weight(kind, *shape)
    matrix = dequantize(raw, kind, shape)
    ids = torch.tensor([36, 0, 0, 15, 16])
    actual = library.decode_rows(raw, kind, shape, ids)
    torch.testing.assert_close(actual, matrix[ids], rtol=1e-6, atol=1e-6)
    for outside in (-1, 37):
        with pytest.raises(IndexError):
            library.decode_rows(raw, kind, shape, torch.tensor([0, outside]))


def test_every_scale_of_mxfp4(library: KernelLibrary) -> None:
    raw = torch.zeros(256, 17, dtype=torch.uint8)
    raw[:, 0] = torch.arange(256)
    raw[:, 1:] = torch.arange(16) * 17
    shape = (256, 32)
    decoded = library.decode_rows(raw, GgmlType.MXFP4, shape, torch.arange(256))
    assert torch.equal(decoded, dequantize(raw, GgmlType.MXFP4, shape))


def test_not_a_number_stays_in_its_own_token_and_row(library: KernelLibrary) -> None:
    shape = (9, 70)
    matrix = torch.ones(shape, dtype=torch.float16)
    matrix[4, 69] = float("nan")
    x = torch.ones(5, 70)
    x[2, 0] = float("inf")
    product = library.multiply_rows(matrix, GgmlType.F16, shape, x)
    assert product.isnan().sum() == 5
    assert product[:, 4].isnan().all()
    assert product.isinf().sum() == 8
    assert product[2].isinf().sum() == 8


def test_a_view_is_read_where_it_lies(library: KernelLibrary, random_tensor: RandomTensor) -> None:
    file = random_tensor(64, 32).bfloat16()
    view = file[10:30]
    x = random_tensor(3, 32)
    product = library.multiply_rows(view, GgmlType.BF16, (20, 32), x)
    assert_products(product, x, view.float())


def test_what_does_not_fit_is_refused(library: KernelLibrary) -> None:
    x = torch.zeros(1, 64)
    raw = torch.zeros(4 * 68, dtype=torch.uint8)
    assert library.multiply_rows(raw, GgmlType.Q8_0, (4, 64), x).shape == (1, 4)
    with pytest.raises(ValueError, match="no weight"):
        library.multiply_rows(raw[1:], GgmlType.Q8_0, (4, 64), x)
    with pytest.raises(ValueError, match="no weight"):
        library.multiply_rows(raw, GgmlType.Q8_0, (4, 63), x[:, :63])
    with pytest.raises(ValueError, match="no weight"):
        library.multiply_rows(raw.view(4, 68)[:, ::2], GgmlType.Q8_0, (2, 64), x)
    with pytest.raises(ValueError, match="no weight"):
        library.multiply_rows(raw, 40, (4, 64), x)
    with pytest.raises(ValueError, match="32 input features"):
        library.multiply_rows(raw, GgmlType.Q8_0, (4, 64), x[:, :32])
