"""Whatever form a model comes in, what is written of it says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantized_checkpoint import FORMATS, Format, write_quantized
from random_checkpoint import write_gguf

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.conversion.quantize import quantize_checkpoint
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions
from qcode.engine.quantization.block_layouts import GgmlType

IDS = list(range(40, 60))
PACKED = {
    form.name: form
    for form in FORMATS
    if form.name.startswith(("awq", "gptq", "pack", "nvfp4", "modelopt-nvfp4", "float-quantized"))
}


def likelihoods(path: Path) -> torch.Tensor:
    engine = Engine.load(path, EngineOptions(dtype="float32", kv_dtype="float32"))
    return torch.tensor(engine.score(IDS))


def assert_same(source: Path, target: Path) -> None:
    torch.testing.assert_close(likelihoods(target), likelihoods(source), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", PACKED.values(), ids=PACKED)
def test_packed_safetensors(form: Format, tmp_path: Path) -> None:
    source = write_quantized(tmp_path / "source", "qwen3_moe", form).directory
    for target in ("out.gguf", "out"):
        quantize_checkpoint(source, tmp_path / target, "f32")
        assert_same(source, tmp_path / target)


def test_a_split_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", "qwen3", matrix_type="Q8_0")
    whole = GgufFile(tmp_path / "whole.gguf")
    names = list(whole.tensors)
    parts = [tmp_path / name for name in split_part_names("model-00001-of-00002.gguf")]
    for number, part in enumerate(parts):
        metadata = dict(whole.metadata) if number == 0 else {}
        metadata |= {"split.no": number, "split.count": 2, "split.tensors.count": len(names)}
        mine = [whole.tensors[name] for name in names[number::2]]
        layout = GgufLayout(metadata, [(t.name, t.shape, GgmlType(t.ggml_type)) for t in mine])
        content = bytearray(layout.num_bytes)
        content[: len(layout.header)] = layout.header
        for tensor in mine:
            start = layout.tensors[tensor.name].offset
            content[start : start + tensor.num_bytes] = whole.raw(tensor.name).numpy().tobytes()
        part.write_bytes(content)

    quantize_checkpoint(parts[1], tmp_path / "out.gguf", "q8_0")

    written = GgufFile(tmp_path / "out.gguf")
    assert not [key for key in written.metadata if key.startswith("split.")]
    assert written.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(written.raw(name), whole.raw(name)) for name in names)
