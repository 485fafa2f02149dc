"""`qcode model info`: headers only, all parts counted, budgets by context and cache format."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import Family, write_gguf, write_safetensors
from transformers import AutoConfig, AutoModelForCausalLM

from qcode.cli.model_facts import model_files
from qcode.cli.model_info import info
from qcode.protocol.errors import EngineError, ModelStoreError

CONFIGS = Path(__file__).parent.parent / "published_configs"
KEYS = {
    "name",
    "path",
    "files",
    "bytes",
    "formats",
    "architecture",
    "packed_files",
    "parameters",
    "active_parameters",
    "layers",
    "linear_attention_layers",
    "experts",
    "experts_per_token",
    "vocabulary",
    "tokenizer_tokens",
    "chat_dialect",
    "context_window",
    "largest_context_window",
    "yarn_factor",
    "kv_bytes_per_token",
    "kv_bytes_per_token_by_dtype",
    "state_bytes_per_sequence",
    "sampling",
    "memory",
}


def write_header_only(directory: Path, name: str) -> Path:
    """A published model in bfloat16 without its weights: the file has their size, and holds none
    of their bytes."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())["config"]
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    header, offset = {}, 0
    for key, tensor in network.state_dict().items():
        end = offset + 2 * tensor.numel()
        header[key] = {"dtype": "BF16", "shape": [*tensor.shape], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    (directory / "config.json").write_text(json.dumps(config))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return directory


def record(capsys: pytest.CaptureFixture[str], path: Path, context: int | None = None) -> Any:
    info(str(path), as_json=True, context=context)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_programs_get_every_fact(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, family, matrix_type="Q8_0")
    facts = record(capsys, file)
    assert facts.keys() == KEYS
    assert facts["path"] == str(file)
    assert facts["files"] == [str(file)]
    assert facts["bytes"] == file.stat().st_size
    assert facts["architecture"] == family
    assert facts["formats"].keys() == {"Q8_0", "F32"}
    assert 0 < facts["bytes"] - sum(facts["formats"].values()) < 30_000
    assert facts["largest_context_window"] == 4 * facts["context_window"]
    # Three layers, two heads for keys and two for values.
    head_dim = 16 if family == "qwen2" else 32
    by_dtype = facts["kv_bytes_per_token_by_dtype"]
    assert by_dtype["fp16"] == facts["kv_bytes_per_token"] == 3 * 4 * head_dim * 2
    assert by_dtype["int8"] < by_dtype["fp16"]
    if family == "qwen3_moe":
        assert (facts["experts"], facts["experts_per_token"]) == (8, 3)
        assert facts["active_parameters"] < facts["parameters"]
    else:
        assert facts["active_parameters"] == facts["parameters"]


def test_a_million_tokens_of_the_30b_are_budgeted_from_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_header_only(tmp_path, "qwen3-coder-30b-a3b-instruct")
    facts = record(capsys, path, 1 << 20)
    assert facts["parameters"] == 30_532_122_624
    assert facts["formats"] == {"BF16": 2 * 30_532_122_624}
    assert facts["tokenizer_tokens"] is None
    assert facts["kv_bytes_per_token"] == 98_304
    contexts = {
        (item["context_window"], item["kv_dtype"]): item for item in facts["memory"]["contexts"]
    }
    at_1m = contexts[1 << 20, "fp16"]
    assert at_1m["kv_bytes"] == 96 << 30
    assert at_1m["total_bytes"] == sum(
        at_1m[part] for part in ("weight_bytes", "kv_bytes", "state_bytes", "scratch_bytes")
    )
    assert at_1m["fits"] == (at_1m["total_bytes"] <= facts["memory"]["available_bytes"])
    assert contexts[1 << 20, "fp8"]["kv_bytes"] < 0.55 * at_1m["kv_bytes"]


@pytest.mark.parametrize("columns", [80, 120])
def test_people_get_lines_that_fit(
    columns: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    write_header_only(tmp_path, "qwen3-coder-30b-a3b-instruct")
    monkeypatch.chdir(tmp_path)
    info(".", as_json=False, context=1 << 20)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines if str(tmp_path) not in line) <= columns
    shown = "\n".join(lines)
    for text in (
        "30.5 B, 3.4 B active",
        "128 a layer, 8 of them for each token",
        "61.1 GB",
        "BF16 100%",
        "262,144 tokens; up to 1,048,576 with --context, by YaRN",
        "96 KiB a token (fp16, bf16)",
        "YaRN factor 4",
        "A context of 1M",
        "103.1 GB",
    ):
        assert text in shown, shown


def test_all_shards_and_parts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sharded = write_safetensors(tmp_path / "sharded", "qwen3", num_shards=3)
    facts = record(capsys, sharded)
    assert len(facts["files"]) == 3
    assert facts["bytes"] == sum(file.stat().st_size for file in sharded.glob("*.safetensors"))
    parts = [tmp_path / f"m-{part:05}-of-00002.gguf" for part in (1, 2)]
    for file in (*parts, tmp_path / "m-00001-of-00003.gguf", tmp_path / "m.gguf"):
        file.touch()
    assert model_files(parts[1]) == tuple(parts)
    assert model_files(tmp_path / "m.gguf") == (tmp_path / "m.gguf",)


@pytest.mark.weights("0.5b")
def test_an_embedding_that_is_stored_twice_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    assert record(capsys, path)["parameters"] == 494_032_768


def test_a_context_beyond_the_model_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path, "qwen3")
    with pytest.raises(EngineError, match="more than this model can hold"):
        info(str(path), as_json=False, context=1 << 20)


def test_what_is_no_model_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelStoreError, match="not a checkpoint"):
        info(str(tmp_path), as_json=False, context=None)
    with pytest.raises(ModelStoreError, match="There is no file"):
        info(str(tmp_path / "m.gguf"), as_json=False, context=None)
    with pytest.raises(ModelStoreError, match="No model") as raised:
        info("qwen3-coder:30b", as_json=False, context=None)
    assert raised.value.hint == "Fetch it: qcode model pull qwen3-coder:30b"
