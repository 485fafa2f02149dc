"""Projections of one input are joined where that copies nothing."""

from __future__ import annotations

import torch

from qcode.engine.layers.projections import Projections
from qcode.engine.quantization.weight_format import DenseWeight


def matrices(device: str, *dtypes: torch.dtype) -> list[DenseWeight]:
    return [
        DenseWeight(torch.ones(2 + i, 4, dtype=dtype, device=device))
        for i, dtype in enumerate(dtypes)
    ]


def test_each_gets_its_own_product_and_bias() -> None:
    weights = matrices("cpu", torch.float32, torch.bfloat16)
    biases = [torch.zeros(2), torch.arange(3.0)]
    first, second = Projections(weights, biases)(torch.ones(1, 4))
    assert first.tolist() == [[4, 4]]
    assert second.tolist() == [[4, 5, 6]]


def test_weights_of_a_mapped_file_are_not_copied() -> None:
    weights = matrices("cpu", torch.float32, torch.float32)
    projections = Projections(weights)
    for weight in weights:
        weight.tensor.zero_()
    assert all((part == 0).all() for part in projections(torch.ones(2, 4)))


def test_parts_of_a_joined_product_have_their_sizes() -> None:
    x = torch.ones(5, 4, device="meta")
    same = Projections(matrices("meta", torch.float32, torch.float32))(x)
    assert [part.shape for part in same] == [(5, 2), (5, 3)]
    mixed = Projections(matrices("meta", torch.float32, torch.bfloat16))(x)
    assert [part.shape for part in mixed] == [(5, 2), (5, 3)]
