"""A file of random weights has the sizes and types that were asked for, and is a working model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_checkpoint import write_gguf

from benchmarks.geometries import GEOMETRIES
from benchmarks.random_gguf import write_random_gguf
from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.conversion.formats import FORMATS
from qcode.engine.engine import Engine
from qcode.engine.measurement import time_answer
from qcode.engine.options import EngineOptions
from qcode.engine.quantization.block_layouts import GgmlType
from qcode.engine.quantization.ggml import dequantize

SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "vocab_size": 1000,
}


def write(folder: Path, geometry: str, num_layers: int | None = None) -> Path:
    write_gguf(folder / "vocabulary.gguf")
    sizes = GEOMETRIES[geometry]
    num_bytes = write_random_gguf(
        folder / "random.gguf",
        geometry={**sizes, **{key: value for key, value in SMALL.items() if key in sizes}},
        vocabulary=folder / "vocabulary.gguf",
        output=FORMATS["q4_k_m"],
        num_layers=num_layers,
    )
    assert (folder / "random.gguf").stat().st_size == num_bytes
    return folder / "random.gguf"


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_different_prompts_get_different_answers(geometry: str, tmp_path: Path) -> None:
    engine = Engine.load(write(tmp_path, geometry), EngineOptions(context_window=256))
    prompts = ([1, 2, 3], [4, 5, 6], [7, 8, 9])
    answers = {time_answer(engine, prompt, 12).token_ids for prompt in prompts}
    assert len(answers) == len(prompts)
    scores = engine.score(list(range(64)))
    assert all(-30 < score < 0 for score in scores)
    assert len(set(scores)) > 50


def test_sizes_layers_and_types(tmp_path: Path) -> None:
    path = write(tmp_path, "qwen3-coder-30b-a3b", num_layers=16)
    config = open_checkpoint(path).config
    assert config.num_layers == 16
    assert config.experts is not None
    assert config.experts.num_experts == 16
    assert config.vocab_size == 1000
    kinds = {name: GgmlType(x.ggml_type) for name, x in GgufFile(path).tensors.items()}
    assert kinds["output.weight"] == GgmlType.Q6_K
    assert kinds["token_embd.weight"] == GgmlType.Q4_K
    assert kinds["blk.3.ffn_gate_inp.weight"] == GgmlType.F32
    six_bits = [i for i in range(16) if kinds[f"blk.{i}.ffn_down_exps.weight"] == GgmlType.Q6_K]
    # As llama.cpp chooses them: the first and the last eighth, and every third between.
    assert six_bits == [0, 1, 4, 7, 10, 13, 14, 15]
    assert kinds["blk.0.attn_v.weight"] == GgmlType.Q6_K
    assert kinds["blk.2.attn_v.weight"] == GgmlType.Q4_K


def test_no_two_rows_of_a_matrix_are_alike(tmp_path: Path) -> None:
    file = GgufFile(write(tmp_path, "qwen3-coder-30b-a3b"))
    for name in ("token_embd.weight", "blk.1.ffn_up_exps.weight", "blk.1.attn_q.weight"):
        info = file.tensors[name]
        rows = dequantize(file.raw(name), info.ggml_type, info.shape).flatten(0, -2)
        assert len(torch.unique(rows, dim=0)) == len(rows)
        assert rows.isfinite().all()
