"""llama.cpp reads the GGUF files we write, and computes what we compute.

Runs where llama-cpp-python is installed, which needs a compiler for minutes to install.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_checkpoint import FAMILIES, Family, write_safetensors

from qcode.engine.conversion.quantize import quantize_checkpoint
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

IDS = list(range(40, 72))
# llama.cpp takes experts in all layers or none, and heads of linear attention of one size.
CHANGES: dict[str, object] = {
    "mlp_only_layers": [],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,
    "full_attention_interval": 4,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_file_says_the_same_there(family: Family, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "source", family, **CHANGES)
    path = tmp_path / "model.gguf"
    quantize_checkpoint(source, path, "f32")
    engine = Engine.load(path, EngineOptions(dtype="float32", kv_dtype="float32"))
    ours = torch.tensor(list(engine.score(IDS)))
    torch.testing.assert_close(ours, llama_cpp_scores(path), rtol=0, atol=5e-3)


def llama_cpp_scores(path: Path) -> torch.Tensor:
    """The log-probability of each of IDS after the first."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    try:
        model.eval(IDS)
        scores = torch.from_numpy(model.scores[: len(IDS) - 1].copy()).log_softmax(-1)
    finally:
        model.close()
    return scores[torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])]
