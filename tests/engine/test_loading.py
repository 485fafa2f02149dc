"""Loading a whole model: what comes with it, and what a damaged file does."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from paged_run import layer_caches
from random_checkpoint import FAMILIES, Family, random_vocabulary, write_gguf, write_safetensors

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.engine import Engine
from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import EngineOptions
from qcode.protocol.errors import CheckpointError, QcodeError
from qcode.protocol.sampling import SamplingParams

TEMPLATE = "{{ messages[0].content }}"


def first_logits(loaded: LoadedModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits of a prompt of four tokens."""
    config, positions = loaded.config, torch.arange(4)
    caches = layer_caches(config, num_blocks=1, block_size=4, num_slots=1, dtype=dtype)
    inputs = AttentionInputs(
        positions=positions,
        slots=positions,
        query_starts=torch.tensor([0, 4], dtype=torch.int32),
        context_lens=torch.tensor([4], dtype=torch.int32),
        block_tables=torch.zeros(1, 1, dtype=torch.int32),
        state_slots=torch.tensor([0]),
    )
    with torch.inference_mode():
        return loaded.model.logits(loaded.model.forward(positions + 40, inputs, caches))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family: Family, dtype: torch.dtype, tmp_path: Path) -> None:
    write_safetensors(tmp_path, family)
    expected = first_logits(load_model(tmp_path))
    actual = first_logits(load_model(tmp_path, dtype=dtype), dtype)
    assert actual.dtype == torch.float32
    # An expert chosen otherwise changes a row; most of the rest must stay.
    error = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.median().item() < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_a_chat_template_comes_from_the_checkpoint(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    assert load_model(tmp_path / "a.gguf").chat_template == TEMPLATE
    write_gguf(tmp_path / "b.gguf")
    assert load_model(tmp_path / "b.gguf").chat_template is None

    directory = write_safetensors(tmp_path / "directory")
    assert load_model(directory).chat_template is None
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert load_model(directory).chat_template == "old"
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    assert load_model(directory).chat_template == TEMPLATE


def test_every_answer_can_end(tmp_path: Path) -> None:
    """Both end tokens count, though a GGUF file names only one of them."""
    write_gguf(tmp_path / "model.gguf")
    special_ids = random_vocabulary().special_ids
    expected = {special_ids["<|im_end|>"], special_ids["<|endoftext|>"]}
    assert load_model(tmp_path / "model.gguf").tokenizer.eos_ids == expected


@pytest.mark.parametrize("is_gguf", [True, False], ids=["gguf", "safetensors"])
def test_a_file_cut_between_two_steps_ends_the_request_and_not_the_process(
    is_gguf: bool, tmp_path: Path
) -> None:
    if is_gguf:
        file = path = tmp_path / "model.gguf"
        write_gguf(path, matrix_type="Q4_1", hidden_size=64)
    else:
        path = write_safetensors(tmp_path)
        file = path / "model.safetensors"
    engine = Engine.load(path, EngineOptions(context_window=64))
    engine.submit([5, 6, 7], SamplingParams(temperature=0, max_tokens=20))
    engine.step()
    os.truncate(file, 4096)
    with pytest.raises(CheckpointError, match="cut short"):
        engine.step()


def test_damaged_files_load_or_fail_with_one_error(tmp_path: Path) -> None:
    """Values that pass the reader but make no sense are caught before they reach the network."""
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen3_moe", num_hidden_layers=2, metadata={"general.alignment": 32})
    whole = path.read_bytes()
    data_start = min(tensor.offset for tensor in GgufFile(path).tensors.values())
    rng = random.Random(6)
    num_refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            # The numbers that shape the network all stand in the first few hundred bytes.
            place = rng.randrange(rng.choice([700, data_start]))
            content[place] = rng.choice([0, 1, 2, 127, 255, rng.randrange(256)])
        path.write_bytes(content)
        try:
            first_logits(load_model(path))
        except QcodeError:
            num_refused += 1
    assert 50 < num_refused < 200


def test_files_without_an_index_are_read_together(tmp_path: Path) -> None:
    directory = write_safetensors(tmp_path / "listed", num_shards=2)
    (directory / "model.safetensors.index.json").unlink()
    assert load_model(directory).config.num_layers == 3


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    directory = write_safetensors(tmp_path / "twice")
    copy = directory / "model-copy.safetensors"
    copy.write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*is in model-copy"):
        load_model(directory)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    directory = write_safetensors(tmp_path / "pickled")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no \.safetensors file") as failure:
        load_model(directory)
    assert "never loaded" in failure.value.hint
