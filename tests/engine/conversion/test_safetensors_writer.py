"""Shards we lay out, read by the `safetensors` package and by our own reader."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from qcode.engine.checkpoint.positioned_file import PositionedFile
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.engine.checkpoint.safetensors_writer import lay_out_shards, shard_index

TENSORS = {
    "odd": (torch.randn(3, 5).to(torch.float8_e4m3fn), "F8_E4M3"),
    "wide": (torch.randn(2, 2), "F32"),
    "half": (torch.randn(7).bfloat16(), "BF16"),
    "scalar": (torch.tensor(2.5), "F32"),
}
ENTRIES = [(name, tuple(tensor.shape), dtype) for name, (tensor, dtype) in TENSORS.items()]


def write_shards(folder: Path, shard_bytes: int) -> list[str]:
    shards = lay_out_shards(ENTRIES, shard_bytes)
    for shard in shards:
        with PositionedFile(folder / shard.name, shard.num_bytes) as file:
            file.write(0, shard.header)
            for name, place in shard.tensors.items():
                file.write(place.offset, TENSORS[name][0])
        assert (folder / shard.name).stat().st_size == shard.num_bytes
    (folder / "index.json").write_text(shard_index(shards))
    return [shard.name for shard in shards]


def test_one_file_holds_a_small_model(tmp_path: Path) -> None:
    assert write_shards(tmp_path, 1000) == ["model.safetensors"]
    read = load_file(tmp_path / "model.safetensors")
    ours = SafetensorsFile(tmp_path / "model.safetensors")
    assert set(read) == set(TENSORS) == set(ours.tensors)
    for name, (tensor, _) in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].float(), tensor.float())
        assert torch.equal(ours.tensor(name).float(), tensor.float())
        assert ours.tensors[name].offset % tensor.itemsize == 0


def test_shards_stay_below_the_limit_and_are_indexed(tmp_path: Path) -> None:
    files = write_shards(tmp_path, 32)
    assert files == [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    index = json.loads((tmp_path / "index.json").read_text())
    total = sum(tensor.nbytes for tensor, _ in TENSORS.values())
    assert index["metadata"]["total_size"] == total
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name].float(), TENSORS[name][0].float())
    for file in files:
        assert sum(t.nbytes for t in load_file(tmp_path / file).values()) <= 32


def test_a_tensor_larger_than_a_shard_has_one_of_its_own() -> None:
    shards = lay_out_shards(ENTRIES, 1)
    assert [list(shard.tensors) for shard in shards] == [[name] for name in TENSORS]
