"""GGUF files in every type and layout: weights stay as they are stored, and compute the same."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from paged_run import PagedRun
from random_checkpoint import Family, write_gguf, write_safetensors

from qcode.engine.checkpoint.gguf import GgufFile, GgufTensor
from qcode.engine.checkpoint.gguf_checkpoint import (
    GgufCheckpoint,
    Residency,
    choose_residency,
)
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.kernels.library import installed
from qcode.engine.kernels.packed_weight import PackedWeight
from qcode.engine.models.loading import load_model
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import GgmlWeight

TOKENS = [5, 300, 17, 42, 99, 7, 256, 31]
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
}
"""Every row is whole blocks of 256."""

INTERLEAVED = {"Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
QUANTISED = [kind.name for kind in GgmlType if BLOCK_LAYOUTS[kind].block_size > 1]
with_kernels = pytest.mark.skipif(installed() is None, reason="the kernels are not compiled")


def cpu_checkpoint(path: Path) -> GgufCheckpoint:
    return GgufCheckpoint(path, torch.float32, torch.device("cpu"))


def logits(path: Path, *, exact: bool = True) -> torch.Tensor:
    return PagedRun(load_model(path, exact=exact)).step({0: TOKENS})


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", [kind.name for kind in GgmlType])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_a_file_of_any_type_computes_what_its_values_do(
    family: Family, name: str, tmp_path: Path
) -> None:
    """The values are those that the gguf package reads."""
    path = tmp_path / "model.gguf"
    values = write_gguf(path, family, matrix_type=name, **WIDE)
    write_safetensors(tmp_path / "values", family, weights=values, **WIDE)
    expected = logits(tmp_path / "values")
    assert relative_error(logits(path), expected) < 1e-5
    if family == "qwen3":
        # Fast kernels round activations, which in a random mixture may choose other experts.
        assert relative_error(logits(path, exact=False), expected) < 0.05


@with_kernels
@pytest.mark.parametrize("name", QUANTISED)
def test_no_type_is_unpacked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen3_moe", matrix_type=name, **WIDE)
    checkpoint = cpu_checkpoint(path)
    stored = checkpoint.file.tensors["blk.0.attn_q.weight"]
    weight = checkpoint.weight("model.layers.0.self_attn.q_proj.weight", stored.shape)
    assert type(weight) is (PackedWeight if name in INTERLEAVED else GgmlWeight)
    # The interleaved form keeps the scales of K formats as whole bytes.
    assert stored.num_bytes <= weight.num_bytes < 1.05 * stored.num_bytes


@with_kernels
def test_what_does_not_fit_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen3_moe", matrix_type="Q4_K", **WIDE)
    checkpoint = cpu_checkpoint(path)
    query = checkpoint.file.tensors["blk.0.attn_q.weight"].shape
    experts = checkpoint.file.tensors["blk.0.ffn_up_exps.weight"].shape
    assert checkpoint.residency is Residency.ALL
    for residency, query_type, expert_type in (
        (Residency.ALL, PackedWeight, PackedWeight),
        (Residency.ALL_BUT_EXPERTS, PackedWeight, GgmlWeight),
        (Residency.NONE, GgmlWeight, GgmlWeight),
    ):
        checkpoint.residency = residency
        weight = checkpoint.weight("model.layers.0.self_attn.q_proj.weight", query)
        matrices = checkpoint.experts("model.layers.0.mlp.experts.up_proj.weight", experts)
        assert type(weight) is query_type
        assert {type(matrix) for matrix in matrices} == {expert_type}


def test_experts_are_the_first_to_stay_in_the_file() -> None:
    def tensor(name: str, num_bytes: int, kind: GgmlType = GgmlType.Q8_0) -> GgufTensor:
        return GgufTensor(name=name, ggml_type=kind, shape=(1,), offset=0, num_bytes=num_bytes)

    tensors = [
        tensor("blk.0.attn_q.weight", 100),
        tensor("blk.0.ffn_up_exps.weight", 900),
        tensor("blk.0.ffn_gate_inp.weight", 10**9, GgmlType.F32),
    ]
    assert choose_residency(tensors, 1000) is Residency.ALL
    assert choose_residency(tensors, 999) is Residency.ALL_BUT_EXPERTS
    assert choose_residency(tensors, 100) is Residency.ALL_BUT_EXPERTS
    assert choose_residency(tensors, 99) is Residency.NONE


@pytest.mark.parametrize("name", ["Q4_K", "Q5_1", "F16"])
def test_gate_and_up_projections_in_one_tensor(name: str, tmp_path: Path) -> None:
    path, fused = tmp_path / "model.gguf", tmp_path / "fused.gguf"
    write_gguf(path, "qwen3_moe", matrix_type=name, **WIDE)
    fuse_gate_and_up(GgufFile(path), fused)
    assert "blk.0.ffn_gate_up_exps.weight" in GgufFile(fused).tensors
    for exact in (True, False):
        assert torch.equal(logits(fused, exact=exact), logits(path, exact=exact))


def fuse_gate_and_up(apart: GgufFile, target: Path) -> None:
    """The same file, with the rows of both projections of an expert one after the other."""
    tensors: dict[str, tuple[tuple[int, ...], GgmlType, torch.Tensor]] = {}
    for name, tensor in apart.tensors.items():
        kind, shape = GgmlType(tensor.ggml_type), tensor.shape
        if "ffn_gate_exps" in name:
            up = name.replace("gate", "up")
            halves = [apart.raw(part).view(shape[0], -1) for part in (name, up)]
            name = name.replace("gate", "gate_up")
            tensors[name] = ((shape[0], 2 * shape[1], shape[2]), kind, torch.cat(halves, dim=1))
        elif "ffn_up_exps" not in name:
            tensors[name] = (shape, kind, apart.raw(name))
    infos = [(name, shape, kind) for name, (shape, kind, _) in tensors.items()]
    layout = GgufLayout(apart.metadata, infos)
    with target.open("wb") as file:
        file.write(layout.header)
        for name, (_, _, raw) in tensors.items():
            file.seek(layout.tensors[name].offset)
            file.write(raw.numpy().tobytes())
        file.truncate(layout.num_bytes)


def test_blocks_are_those_of_the_gguf_package() -> None:
    for kind in GgmlType:
        layout = BLOCK_LAYOUTS[kind]
        expected = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        assert (layout.block_size, layout.block_bytes) == expected
