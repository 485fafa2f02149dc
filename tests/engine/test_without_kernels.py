"""A machine without a compiler has no kernels: plain torch must still be right and usable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from random_checkpoint import write_gguf

GENERATE = """
import sys
from pathlib import Path
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.protocol.sampling import SamplingParams

path = Path(sys.argv[1])
engine = Engine.load(path, EngineOptions(num_threads=1))
engine.submit([5, 6, 7, 8], SamplingParams(temperature=0, max_tokens=6))
ids = []
while engine.has_work:
    for output in engine.step():
        ids += output.token_ids
config = open_checkpoint(path).config
weight = open_checkpoint(path).weight(
    "model.layers.0.mlp.down_proj.weight", (config.hidden_size, config.intermediate_size)
)
print(type(weight).__name__, *ids)
"""


def generated(path: Path, kernels: str | None) -> list[str]:
    environment = {**os.environ, "QCODE_KERNELS": kernels} if kernels else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_plain_torch_unpacks_the_weights_and_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2", seed=3, matrix_type="Q8_0")
    kind, *ids = generated(path, "torch")
    assert kind == "UnpackedWeight"
    assert len(ids) == 6
    _, *with_kernels = generated(path, None)
    assert ids == with_kernels
