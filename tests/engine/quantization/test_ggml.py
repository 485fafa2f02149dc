"""Dequantisation against the `gguf` package, and the weights built on it."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as gguf_dequantize

from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import (
    GgmlWeight,
    checked_type,
    dequantize,
    expert_weights,
    ggml_weight,
    tensor_bytes,
)
from qcode.engine.quantization.weight_format import DenseWeight
from qcode.protocol.errors import UnsupportedModel

BLOCK_TYPES = [kind for kind in GgmlType if BLOCK_LAYOUTS[kind].block_size > 1]


def random_blocks(kind: GgmlType, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Random bytes whose float16 fields are finite and of a usual size."""
    size = BLOCK_LAYOUTS[kind].block_bytes
    raw = np.random.default_rng(seed).integers(0, 256, (num_blocks, size), dtype=np.uint8)
    halves = {
        GgmlType.Q4_1: (0, 2), GgmlType.Q5_1: (0, 2), GgmlType.Q4_K: (0, 2),
        GgmlType.Q5_K: (0, 2), GgmlType.Q2_K: (80, 82), GgmlType.Q3_K: (108,),
        GgmlType.Q6_K: (208,), GgmlType.MXFP4: (),
    }.get(kind, (0,))  # fmt: skip
    rng = np.random.default_rng(seed + 1)
    if kind == GgmlType.MXFP4:
        raw[:, 0] = rng.integers(105, 125, num_blocks)
    for offset in halves:
        values = rng.uniform(-0.01, 0.01, num_blocks).astype(np.float16)
        raw[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)
    return raw


def random_matrix(kind: GgmlType, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    blocks = random_blocks(kind, rows * columns // BLOCK_LAYOUTS[kind].block_size, seed)
    return blocks.reshape(rows, -1)


def expected(raw: np.ndarray, kind: GgmlType) -> torch.Tensor:
    return torch.from_numpy(gguf_dequantize(raw, gguf.GGMLQuantizationType(int(kind))))


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_dequantize_agrees_with_gguf(kind: GgmlType) -> None:
    raw = random_matrix(kind, 7, 768)
    ours = dequantize(torch.from_numpy(raw), kind, (7, 768))
    assert torch.equal(ours, expected(raw, kind))


def test_every_scale_of_mxfp4_is_a_power_of_two() -> None:
    raw = np.zeros((253, 17), dtype=np.uint8)
    raw[:, 0] = range(253)
    raw[:, 1:] = [16 * high + high for high in range(16)]
    ours = dequantize(torch.from_numpy(raw), GgmlType.MXFP4, (253, 32))
    assert torch.equal(ours, expected(raw, GgmlType.MXFP4))
    one = ours[127, :16].tolist()
    assert one == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_weight_products_and_rows_follow_the_dequantised_matrix(kind: GgmlType) -> None:
    raw = torch.from_numpy(random_matrix(kind, 33, 512))
    matrix = dequantize(raw, kind, (33, 512))
    weight = GgmlWeight(raw, kind, (33, 512))
    x = torch.randn(5, 512, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight.linear(x), x @ matrix.T, rtol=1e-4, atol=1e-4)
    ids = torch.tensor([32, 0, 0, 7])
    torch.testing.assert_close(weight.rows(ids), matrix[ids], rtol=1e-6, atol=1e-6)
    assert weight.shape == (33, 512)
    assert weight.num_bytes == raw.nbytes == tensor_bytes(kind, (33, 512))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (GgmlType.F32, torch.float32),
        (GgmlType.F16, torch.float16),
        (GgmlType.BF16, torch.bfloat16),
    ],
)
def test_float_types_become_dense_weights(kind: GgmlType, dtype: torch.dtype) -> None:
    matrix = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = ggml_weight(matrix.view(torch.uint8), kind, (6, 10))
    assert isinstance(weight, DenseWeight)
    torch.testing.assert_close(weight.dequantize(), matrix.float(), rtol=0, atol=0)


def test_experts_are_cut_from_the_stacked_tensor() -> None:
    raw = torch.from_numpy(random_matrix(GgmlType.Q8_0, 3 * 4, 64))
    whole = dequantize(raw, GgmlType.Q8_0, (3, 4, 64))
    experts = expert_weights(raw, GgmlType.Q8_0, (3, 4, 64))
    assert len(experts) == 3
    for expert, matrix in zip(experts, whole, strict=True):
        torch.testing.assert_close(expert.dequantize(), matrix, rtol=0, atol=0)


def test_unreadable_types_and_ragged_rows_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="type 40"):
        checked_type(40)
    with pytest.raises(UnsupportedModel, match="multiple of 256"):
        tensor_bytes(GgmlType.Q4_K, (4, 896))


@pytest.mark.weights
def test_real_file_slices_agree_with_gguf() -> None:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    seen = set()
    for tensor in gguf.GGUFReader(path).tensors:
        kind = GgmlType(int(tensor.tensor_type))
        if kind in seen or BLOCK_LAYOUTS[kind].block_size == 1:
            continue
        seen.add(kind)
        raw = np.array(tensor.data[:64])
        ours = dequantize(torch.from_numpy(raw), kind, (len(raw), int(tensor.shape[0])))
        assert torch.equal(ours, expected(raw, kind))
    assert seen == {GgmlType.Q5_0, GgmlType.Q8_0, GgmlType.Q6_K, GgmlType.Q4_K}
