"""Dense and packed weights, and the linear layer over them."""

import pytest
import torch
from torch import Tensor

from qcode.engine.layers.linear import Linear
from qcode.engine.quantization.weight_format import DecodedWeight, DenseWeight, WeightRows

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [0, 1, 3])
def test_dense_product_is_computed_in_float32(dtype: torch.dtype, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 16, generator=generator).to(dtype)
    x = torch.randn(num_tokens, 16, generator=generator)
    product = DenseWeight(matrix).linear(x)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product, x @ matrix.float().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_in_the_weights_own_dtype(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 16, generator=generator).to(dtype)
    x = torch.randn(1, 16, generator=generator).to(dtype)
    product = DenseWeight(matrix).linear(x)
    assert product.dtype == dtype
    torch.testing.assert_close(product.float(), x.float() @ matrix.float().T, rtol=2e-2, atol=2e-2)


def test_linear_adds_its_bias() -> None:
    matrix, bias = torch.eye(3) * 2, torch.tensor([1.0, 2.0, 3.0])
    x = torch.ones(2, 3)
    torch.testing.assert_close(Linear(DenseWeight(matrix), bias)(x), x * 2 + bias)
    torch.testing.assert_close(Linear(DenseWeight(matrix))(x), x * 2)


def test_rows_and_size() -> None:
    matrix = torch.arange(12, dtype=torch.float16).view(4, 3)
    weight = DenseWeight(matrix)
    assert weight.shape == (4, 3)
    assert weight.num_bytes == 24
    torch.testing.assert_close(weight.rows(torch.tensor([2, 0])), matrix[[2, 0]])


class Ones(DecodedWeight):
    """Row r holds r; remembers how many rows were decoded at a time."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__((rows, columns), [torch.arange(rows)])
        self.decoded: list[int] = []

    def decode(self, rows: slice | Tensor) -> Tensor:
        values = self.stored[0][rows].float()
        self.decoded.append(len(values))
        return values[:, None].expand(-1, self.shape[1])


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_packed_rows_are_decoded_some_at_a_time(num_tokens: int) -> None:
    weight = Ones(300, 16384)
    product = weight.linear(torch.ones(num_tokens, 16384))
    expected = (torch.arange(300.0) * 16384).expand(num_tokens, 300)
    torch.testing.assert_close(product, expected)
    assert max(weight.decoded) < 100
    assert sum(weight.decoded) == 300


def test_rows_of_a_matrix_that_is_stored_with_others() -> None:
    whole = Ones(10, 4)
    weight = WeightRows(whole, 3, 8)
    assert weight.shape == (5, 4)
    assert weight.num_bytes == whole.num_bytes // 2
    assert weight.dequantize()[:, 0].tolist() == [3, 4, 5, 6, 7]
    assert weight.rows(torch.tensor([4, 0]))[:, 0].tolist() == [7, 3]
    assert weight.linear(torch.ones(1, 4)).tolist() == [[12, 16, 20, 24, 28]]
