"""What `quantization_config` may say, and what is refused because it is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcode.engine.checkpoint.quantization_config import quantization_scheme
from qcode.engine.quantization.scheme import QuantizationScheme
from qcode.protocol.errors import CheckpointError, UnsupportedModel

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM"}


def read(config: object, directory: Path = Path("/nowhere")) -> QuantizationScheme:
    return quantization_scheme(directory, {"quantization_config": config})


def compressed(weights: dict[str, Any] | None, **more: object) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, **more}


def test_a_checkpoint_that_is_not_quantised() -> None:
    assert quantization_scheme(Path("/nowhere"), {}) == QuantizationScheme()


def test_fp8() -> None:
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    assert read(config).blocks == frozenset()
    assert read({**config, "weight_block_size": [128, 64]}).blocks == {(128, 64)}
    assert read({**config, "modules_to_not_convert": ["lm_head"]}).method == "fp8"


def test_awq() -> None:
    assert read(AWQ).group_sizes == {128}
    assert read({**AWQ, "group_size": -1}).group_sizes == frozenset()
    assert read({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}).group_sizes == {64}


def test_gptq() -> None:
    scheme = read(GPTQ)
    assert (scheme.num_bits, scheme.group_sizes, scheme.symmetric) == ({4}, {128}, True)
    assert scheme.zeros_minus_one
    assert not scheme.reordered
    assert not read({**GPTQ, "checkpoint_format": "gptq_v2"}).zeros_minus_one
    assert read({**GPTQ, "desc_act": True}).reordered
    rules = {"-:.*gate$": {}, "+:.*down_proj": {"bits": 8, "group_size": 32}}
    assert read({**GPTQ, "dynamic": rules}).num_bits == {4, 8}
    assert read({**GPTQ, "dynamic": rules}).group_sizes == {32, 128}


def test_compressed_tensors() -> None:
    weights = {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group"}
    scheme = read(compressed(weights, format="pack-quantized"))
    assert (scheme.num_bits, scheme.group_sizes) == ({4}, {128})
    blocks = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 64]}
    assert read(compressed(blocks)).blocks == {(128, 64)}
    assert read(compressed({**blocks, "block_structure": "128x64"})).blocks == {(128, 64)}
    assert read(compressed(None)).blocks == frozenset()
    older = {"compression_config": compressed(weights)}
    assert quantization_scheme(Path("/nowhere"), older) == scheme


def test_modelopt_in_either_file(tmp_path: Path) -> None:
    quantization = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    scheme = quantization_scheme(tmp_path, {})
    assert (scheme.method, scheme.group_sizes) == ("modelopt", {16})
    assert read({"quant_method": "modelopt", **quantization}) == scheme
    layers = {"a": {"quant_algo": "NVFP4", "group_size": 16}, "b": {"quant_algo": "FP8"}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    assert read({**mixed, "quantized_layers": layers}) == scheme


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "exl2", "bits": 4.25}, "exl2"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": ["fp8"]}, "fp8"),
        ({"bits": 4}, "None"),
        ({**AWQ, "version": "gemv"}, "gemv"),
        ({**AWQ, "bits": 3}, "3-bit"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "marlin"),
        ({**GPTQ, "bits": 5}, "5 bits"),
        (compressed(None, format="marlin-24"), "marlin-24"),
        (compressed(None, format="mxfp6-pack-quantized"), "mxfp6"),
        (compressed(None, sparsity_config={"format": "sparse-24-bitmask"}), "sparse"),
        (compressed(None, transform_config={"config_groups": {"u": {}}}), "rotated"),
        (compressed({"num_bits": 16, "type": "int"}), "16 bits"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "W4A8_AWQ"),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {"quant_algo": "INT4_AWQ"}},
            },
            "INT4_AWQ",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named) as error:
        read(config)
    assert "/nowhere/config.json" in error.value.message
    assert "GGUF" in error.value.hint


@pytest.mark.parametrize(
    "config",
    [
        "fp8",
        {"quant_method": "fp8", "weight_block_size": 128},
        {"quant_method": "fp8", "weight_block_size": [128]},
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        {"quant_method": "fp8", "weight_block_size": [True, 128]},
        {"quant_method": "fp8", "weight_block_size": "128by128"},
        {**AWQ, "group_size": 0},
        {**AWQ, "bits": "4"},
        {**GPTQ, "group_size": "all"},
        {"quant_method": "gptq"},
        {**GPTQ, "sym": 1},
        compressed({"num_bits": "four"}),
        compressed({"num_bits": 4, "group_size": -7}),
    ],
    ids=str,
)
def test_nonsense_is_refused(config: object) -> None:
    with pytest.raises(CheckpointError, match=r"/nowhere/config\.json"):
        read(config)
