"""Quantised checkpoints that contradict themselves: one error that names the file and tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest
import torch
from quantized_checkpoint import FORMATS, Config, Parts, write_quantized
from safetensors.torch import load_file, save_file

from qcode.engine.models.loading import load_model
from qcode.protocol.errors import CheckpointError, UnsupportedModel

DAMAGED_LAYER = "model.layers.1.mlp.up_proj"
BY_NAME = {form.name: form for form in FORMATS}

Damage = Callable[[Parts], object]
Damaged = Callable[[str, Damage], None]


def put(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(parts: Parts) -> None:
        parts[part] = change(parts[part]).contiguous()

    return damage


def drop(part: str) -> Damage:
    return lambda parts: parts.pop(part)


def add(part: str, content: torch.Tensor) -> Damage:
    return lambda parts: parts.__setitem__(part, content)


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.full_like(tensor, value)


def less_a_row(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[1:]


def less_a_column(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:, 1:]


DAMAGES: dict[str, tuple[str, Damage, str]] = {
    # name: (format, what happens to the tensors of one layer, what the error says)
    "fp8: rows missing": ("fp8-blocks", put("weight", less_a_row), r"weight.*\[95, 64\]"),
    "fp8: no scales": ("fp8-blocks", drop("weight_scale_inv"), "no 'weight_scale' beside it"),
    "fp8: scales missing": ("fp8-blocks", put("weight_scale_inv", less_a_column), r"24x40"),
    "fp8: other blocks": (
        "fp8-blocks",
        put("weight_scale_inv", lambda t: torch.ones(3, 2)),
        r"weight_scale_inv' is \[3, 2\].*24x40",
    ),
    "fp8: NaN": ("fp8-blocks", put("weight_scale_inv", filled(torch.nan)), "not a finite number"),
    "fp8: inf": ("fp8-tensor", put("weight_scale_inv", filled(torch.inf)), "not a finite number"),
    "fp8: scales of integers": (
        "fp8-blocks",
        put("weight_scale_inv", torch.Tensor.int),
        "weight_scale_inv' is stored as int32",
    ),
    "e8m0: NaN": (
        "fp8-blocks-e8m0",
        put("weight_scale_inv", lambda t: torch.full_like(t.view(torch.uint8), 255).view(t.dtype)),
        "not a finite number",
    ),
    "int8: zero points of another shape": (
        "int8-group-zeros",
        put("weight_zero_point", less_a_row),
        "weight_zero_point",
    ),
    "a dtype of no format": ("fp8-blocks", put("weight", lambda t: t.view(torch.uint8)), "uint8"),
    "integers without a format": (
        "fp8-blocks",
        put("weight", lambda t: t.float().to(torch.int32)),
        "int32",
    ),
    "pack: words missing": ("pack-int4-group", put("weight_packed", less_a_column), r"\[96, 7\]"),
    "pack: other width": (
        "pack-int4-group",
        put("weight_packed", lambda t: torch.cat((t, t), 1)),
        r"\[96, 16\].*4 bits",
    ),
    "pack: shape says otherwise": (
        "pack-int4-group",
        put("weight_shape", lambda t: t + 1),
        r"weight_shape.*\[97, 65\]",
    ),
    "pack: group sizes differ": (
        "pack-int4-group",
        put("weight_scale", lambda t: torch.cat((t, t), 1)),
        r"weight_scale' is \[96, 4\].*1x32",
    ),
    "pack: zero points missing": (
        "pack-int4-group",
        put("weight_zero_point", less_a_row),
        "weight_zero_point",
    ),
    "pack: group too high": (
        "pack-int4-group-reordered",
        put("weight_g_idx", filled(4)),
        "weight_g_idx.*group",
    ),
    "pack: group negative": (
        "pack-int4-group-reordered",
        put("weight_g_idx", filled(-1)),
        "weight_g_idx.*group",
    ),
    "nvfp4: global scale zero": ("nvfp4", put("weight_global_scale", filled(0.0)), "is 0.0"),
    "nvfp4: global scale NaN": ("nvfp4", put("weight_global_scale", filled(torch.nan)), "nan"),
    "nvfp4: two global scales": (
        "nvfp4",
        put("weight_global_scale", lambda t: torch.cat((t, t))),
        r"weight_global_scale' is \[2\]",
    ),
    "nvfp4: scales missing": ("nvfp4", put("weight_scale", less_a_column), r"weight_scale' is"),
    "nvfp4: codes missing": ("nvfp4", put("weight_packed", less_a_row), r"weight_packed' is"),
    "mxfp4: no scales": ("mxfp4", drop("weight_scale"), "no 'weight_scale' beside it"),
    "modelopt: inf": ("modelopt-nvfp4", put("weight_scale_2", filled(torch.inf)), "inf"),
    "awq: columns missing": ("awq-group32", put("qweight", less_a_column), "qweight"),
    "awq: no zero points": ("awq-group32", drop("qzeros"), "no 'qzeros' beside it"),
    "awq: group sizes differ": (
        "awq-group32",
        put("scales", lambda t: torch.cat((t, t))),
        r"scales' is \[4, 96\]",
    ),
    "gptq: words missing": ("gptq4-group32-v1-sym", put("qweight", less_a_row), r"\[7, 96\]"),
    "gptq: group sizes differ": (
        "gptq4-group32-v1-sym",
        put("scales", lambda t: torch.cat((t, t))),
        r"scales' is \[4, 96\].*groups of 32",
    ),
    "gptq: group too high": ("gptq4-group16-v1-reordered", put("g_idx", filled(4)), "g_idx"),
    "gptq: no index": ("gptq4-group16-v1-reordered", drop("g_idx"), "no 'g_idx' beside it"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of the format with this name."""

    @cache
    def write(name: str) -> Path:
        return write_quantized(tmp_path_factory.mktemp("intact"), "qwen2", BY_NAME[name]).directory

    return write


@pytest.fixture
def damaged(intact: Callable[[str], Path], tmp_path: Path) -> Damaged:
    """Puts a checkpoint of the format with this name, with damage in one layer, in `tmp_path`."""

    def write(name: str, damage: Damage) -> None:
        copytree(intact(name), tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        prefix = f"{DAMAGED_LAYER}."
        parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        others = {n: t for n, t in tensors.items() if not n.startswith(prefix)}
        damage(parts)
        parts = {f"{prefix}{part}": tensor for part, tensor in parts.items()}
        save_file(others | parts, tmp_path / "model.safetensors")

    return write


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_contradictions_are_named(
    name: str, damage: Damage, message: str, damaged: Damaged, tmp_path: Path
) -> None:
    damaged(name, damage)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path)
    assert f"{tmp_path / 'model.safetensors'}: " in error.value.message
    assert DAMAGED_LAYER in error.value.message


STRANGERS = {
    "scales for activations": ("awq-group32", add("pre_quant_scale", torch.ones(64))),
    "two kinds of scales": ("fp8-blocks", add("weight_scale", torch.ones(1))),
    "bitsandbytes": ("fp8-blocks", add("SCB", torch.ones(96))),
}


@pytest.mark.parametrize(("name", "damage"), STRANGERS.values(), ids=STRANGERS)
def test_tensors_nothing_is_known_about(
    name: str, damage: Damage, damaged: Damaged, tmp_path: Path
) -> None:
    damaged(name, damage)
    with pytest.raises(UnsupportedModel, match=f"not known what '{DAMAGED_LAYER}"):
        load_model(tmp_path)


def test_symmetric_weights_with_another_zero_point(tmp_path: Path) -> None:
    write_quantized(tmp_path, "qwen2", BY_NAME["gptq4-group32-v1-sym"])
    tensors = load_file(tmp_path / "model.safetensors")
    zeroed = {n: torch.zeros_like(t) if "qzeros" in n else t for n, t in tensors.items()}
    save_file(zeroed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"qzeros' begins with 0"):
        load_model(tmp_path)


def test_scales_beside_an_unpacked_matrix(damaged: Damaged, tmp_path: Path) -> None:
    damaged("fp8-blocks", put("weight", torch.Tensor.bfloat16))
    with pytest.raises(UnsupportedModel, match=f"{DAMAGED_LAYER}.weight_scale_inv"):
        load_model(tmp_path)


def test_a_norm_that_is_not_floats(damaged: Damaged, tmp_path: Path) -> None:
    damaged("fp8-blocks", lambda parts: None)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.norm.weight' is stored as .*float8_e4m3fn"):
        load_model(tmp_path)


def test_too_few_stacked_experts(tmp_path: Path) -> None:
    write_quantized(tmp_path, "qwen3_moe", BY_NAME["fp8-blocks"], stacked=True)
    rewrite_config(tmp_path, {"num_experts": 9})
    with pytest.raises(CheckpointError, match=r"mlp\.(gate|experts\.gate_up_proj)\S* is \[8, "):
        load_model(tmp_path)


def rewrite_config(directory: Path, changes: Config) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
