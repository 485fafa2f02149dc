"""GPTQ's zero points have one value more than their bits can count."""

from __future__ import annotations

from pathlib import Path

import torch

from qcode.engine.quantization.gptq import gptq_weight
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.engine.quantization.stored_module import StoredModule, StoredTensor
from qcode.engine.quantization.weight_format import DecodedWeight


def weight_of(
    *, group_size: int, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> DecodedWeight:
    tensors = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    parts = {
        part: StoredTensor(Path("file"), part, tensor.dtype, tuple(tensor.shape), tensor.clone)
        for part, tensor in tensors.items()
    }
    scheme = QuantizationScheme(
        method="gptq",
        num_bits=frozenset({4}),
        blocks=frozenset({(1, group_size)}),
        zeros_minus_one=True,
    )
    shape = qweight.shape[1], 8 * qweight.shape[0]
    return gptq_weight(StoredModule(parts, torch.device("cpu")), shape, scheme)


def test_a_stored_fifteen_means_sixteen() -> None:
    weight = weight_of(
        group_size=8,
        qweight=torch.zeros(1, 8, dtype=torch.int32),
        qzeros=torch.full((1, 1), -1, dtype=torch.int32),  # all bits set
        scales=torch.ones(1, 8),
    )
    assert (weight.dequantize() == -16).all()


def test_a_last_group_that_is_not_full() -> None:
    weight = weight_of(
        group_size=12,
        qweight=torch.zeros(2, 8, dtype=torch.int32),
        qzeros=torch.zeros(2, 1, dtype=torch.int32),
        scales=torch.tensor([[1.0], [2.0]]).repeat(1, 8),
    )
    assert weight.dequantize()[0].tolist() == [-1] * 12 + [-2] * 4
