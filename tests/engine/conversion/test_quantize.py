"""Models in other formats: what comes out runs, says nearly the same, and appears whole or not."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from hollow_checkpoint import write_hollow_safetensors
from random_checkpoint import (
    FAMILIES,
    Family,
    random_config,
    random_weights,
    write_gguf,
    write_safetensors,
)
from safetensors.torch import load_file

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.conversion.formats import FORMATS
from qcode.engine.conversion.network_tensors import network_tensors
from qcode.engine.conversion.quantize import quantize_checkpoint
from qcode.engine.engine import Engine
from qcode.engine.models.loading import load_model
from qcode.engine.options import EngineOptions
from qcode.protocol.errors import CheckpointError, EngineError, UnsupportedModel
from qcode.protocol.sampling import SamplingParams

IDS = list(range(40, 72))
TEMPLATE = "{{ messages[0].content }}"

# How far the log-likelihoods of a text may move, in nats (root mean square). Random networks spread
# errors much further than trained ones. Measured: at most two thirds of each.
BOUNDS = {
    "f32": 1e-4,
    "f16": 1e-4,
    "bf16": 1e-4,
    "q8_0": 0.06,
    "q6_k": 0.15,
    "q5_k_m": 0.3,
    "q4_k_m": 0.6,
    "q4_k_s": 0.6,
    "q4_0": 1.0,
    "fp8": 0.35,
}


def wide_checkpoint(path: Path, family: Family, **changes: object) -> Path:
    """Rows of 256: whole blocks of the k-quants."""
    sizes: dict[str, object] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "full_attention_interval": 2,
    }
    if family in ("qwen3_moe", "qwen3_next"):
        # All experts answer, because a choice among random ones turns on the smallest error.
        sizes |= {"moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 4}
    return write_safetensors(path, family, dtype=torch.bfloat16, **(sizes | changes))


def likelihoods(path: Path) -> torch.Tensor:
    engine = Engine.load(path, EngineOptions(dtype="float32", kv_dtype="float32"))
    return torch.tensor(list(engine.score(IDS)))


def target_of(folder: Path, format_name: str) -> Path:
    return folder / ("out" if FORMATS[format_name].ggml_type is None else "out.gguf")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_of_every_family_says_nearly_the_same(
    family: Family, format_name: str, tmp_path: Path
) -> None:
    source = wide_checkpoint(tmp_path / "source", family)
    target = target_of(tmp_path, format_name)
    written = quantize_checkpoint(source, target, format_name)
    files = [target] if target.is_file() else list(target.iterdir())
    assert written.path == target
    assert written.num_bytes == sum(file.stat().st_size for file in files)
    error = (likelihoods(target) - likelihoods(source)).square().mean().sqrt().item()
    assert error < BOUNDS[format_name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".gguf", ""])
def test_float32_is_exact(family: Family, suffix: str, tmp_path: Path) -> None:
    """Also with rows of no whole blocks, biases, and experts in some layers only."""
    source = write_safetensors(tmp_path / "source", family, num_shards=3)
    target = tmp_path / f"out{suffix}"
    quantize_checkpoint(source, target, "f32")
    torch.testing.assert_close(likelihoods(target), likelihoods(source), rtol=1e-5, atol=2e-5)
    back = tmp_path / "back.gguf"
    quantize_checkpoint(target, back, "f32")
    torch.testing.assert_close(likelihoods(back), likelihoods(source), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_narrow_rows_fall_back_to_smaller_blocks(family: Family, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "source", family)
    quantize_checkpoint(source, tmp_path / "out.gguf", "q4_k_m")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    matrices = {kinds[name] for name in kinds if name.endswith(("attn_q.weight", "ffn_up.weight"))}
    assert matrices <= {"Q5_0"}
    assert kinds["token_embd.weight" if "output.weight" not in kinds else "output.weight"] == "Q8_0"
    assert set(kinds.values()) <= {"Q5_0", "Q8_0", "F32", "F16"}
    load_model(tmp_path / "out.gguf")


def test_the_mixture_is_the_documented_one(tmp_path: Path) -> None:
    source = wide_checkpoint(tmp_path / "source", "qwen3", num_hidden_layers=8)
    quantize_checkpoint(source, tmp_path / "out.gguf", "q4_k_m")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    better = [i for i in range(8) if kinds[f"blk.{i}.attn_v.weight"] == "Q6_K"]
    assert better == [0, 3, 6, 7]
    assert better == [i for i in range(8) if kinds[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
    assert kinds["output.weight"] == "Q6_K"
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_steering_matrices_are_never_quantised(tmp_path: Path) -> None:
    source = wide_checkpoint(tmp_path / "source", "qwen3_next")
    quantize_checkpoint(source, tmp_path / "out.gguf", "q4_k_s")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for part in ("ffn_gate_inp", "ssm_ba", "ssm_conv1d", "ffn_gate_inp_shexp"):
        assert kinds[f"blk.0.{part}.weight"] == "F32", part
    assert kinds["blk.0.ssm_a"] == kinds["blk.0.ssm_dt.bias"] == "F32"
    assert kinds["blk.0.attn_qkv.weight"] == kinds["blk.0.ffn_up_exps.weight"] == "Q4_K"


def test_fp8_is_what_the_published_releases_are(tmp_path: Path) -> None:
    source = wide_checkpoint(tmp_path / "source", "qwen3_next", moe_intermediate_size=192)
    quantize_checkpoint(source, tmp_path / "out", "fp8")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in tensors.items():
        kept = ("embed_tokens", "lm_head", "norm.", "mlp.gate.", "shared_expert_gate", "in_proj_ba")
        kept += ("conv1d", "A_log", "dt_bias", "scale_inv")
        expected = tensor.dtype if any(part in name for part in kept) else torch.float8_e4m3fn
        assert tensor.dtype == expected, name
        assert (f"{name}_scale_inv" in tensors) == (tensor.dtype == torch.float8_e4m3fn)
    down = "model.layers.0.mlp.experts.3.down_proj.weight"
    assert tensors[f"{down}_scale_inv"].shape == (2, 2)  # 256 by 192
    original = load_file(source / "model.safetensors")
    scales = tensors[f"{down}_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
    back = tensors[down].float() * scales[:, :192]
    torch.testing.assert_close(back, original[down].float(), rtol=0.07, atol=1e-3)
    kept_names = ("model.embed_tokens.weight", "model.layers.0.mlp.gate.weight")
    for name in kept_names:
        assert torch.equal(tensors[name], original[name])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config.pop("quantization_config")
    modules = quantization.pop("modules_to_not_convert")
    assert quantization == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    assert {"lm_head", "model.layers.1.mlp.gate", "model.layers.0.input_layernorm"} <= set(modules)
    before = json.loads((source / "config.json").read_text())
    assert config == before | {"torch_dtype": "bfloat16"}
    copied = {file.name for file in source.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == copied


def test_a_quantised_checkpoint_is_a_source_like_any(tmp_path: Path) -> None:
    source = wide_checkpoint(tmp_path / "source", "qwen3_moe")
    quantize_checkpoint(source, tmp_path / "fp8", "fp8")
    quantize_checkpoint(tmp_path / "fp8", tmp_path / "out.gguf", "f32")
    torch.testing.assert_close(
        likelihoods(tmp_path / "out.gguf"), likelihoods(tmp_path / "fp8"), rtol=1e-4, atol=1e-4
    )
    quantize_checkpoint(tmp_path / "fp8", tmp_path / "bf16", "bf16")
    config = json.loads((tmp_path / "bf16" / "config.json").read_text())
    assert "quantization_config" not in config


def test_gguf_to_gguf_keeps_metadata_and_copies_what_fits(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    write_gguf(
        source,
        matrix_type="Q8_0",
        metadata={"tokenizer.chat_template": TEMPLATE, "general.name": "Ours", "x.list": [1, 2]},
    )
    quantize_checkpoint(source, tmp_path / "b.gguf", "q8_0")
    before, after = GgufFile(source), GgufFile(tmp_path / "b.gguf")
    assert after.metadata["general.file_type"] == 7
    changed = {"general.file_type", "general.quantization_version", "general.alignment"}
    for key in before.metadata.keys() | after.metadata.keys():
        if key not in changed:
            assert list_of(after.metadata[key]) == list_of(before.metadata[key]), key
    for name in before.tensors:
        assert torch.equal(before.raw(name), after.raw(name)), name


def list_of(value: object) -> object:
    return list(value) if not isinstance(value, str | int | float) else value  # type: ignore[call-overload]


def test_a_new_gguf_file_says_all_that_the_folder_says(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    source = wide_checkpoint(tmp_path / "source", "qwen3_next", rope_scaling=yarn)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    quantize_checkpoint(source, tmp_path / "out.gguf", "bf16")
    there, here = load_model(source), load_model(tmp_path / "out.gguf")
    assert here.chat_template == TEMPLATE
    text = "def main(self): return '\N{ROCKET} été'<|im_end|><tool_call>"
    assert here.tokenizer.encode_prompt([(text, True)]) == there.tokenizer.encode_prompt(
        [(text, True)]
    )
    assert here.tokenizer.eos_ids == there.tokenizer.eos_ids
    ours, theirs = here.config, there.config
    assert ours.generation.temperature == pytest.approx(theirs.generation.temperature)
    assert ours.generation.top_k == theirs.generation.top_k
    fields = set(type(ours).__dataclass_fields__) - {"generation", "rms_norm_eps"}
    assert {f: getattr(ours, f) for f in fields} == {f: getattr(theirs, f) for f in fields}
    metadata = GgufFile(tmp_path / "out.gguf").metadata
    assert metadata["general.quantization_version"] == 2
    assert metadata["tokenizer.ggml.pre"] == "qwen2"
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_a_written_model_generates(tmp_path: Path) -> None:
    source = wide_checkpoint(tmp_path / "source", "qwen3_moe")
    quantize_checkpoint(source, tmp_path / "out.gguf", "q4_k_m")
    engine = Engine.load(tmp_path / "out.gguf", EngineOptions())
    engine.submit(IDS, SamplingParams(temperature=0, max_tokens=8))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    assert 1 <= len(tokens) <= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_networks_tensors_are_all_of_its_parameters(family: Family, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "source", family))
    values = sum(math.prod(tensor.shape) for tensor in network_tensors(checkpoint))
    assert values == checkpoint.config.num_parameters


def test_progress_grows_to_one(tmp_path: Path) -> None:
    fractions: list[float] = []
    source = write_safetensors(tmp_path / "source")
    quantize_checkpoint(source, tmp_path / "out.gguf", "q8_0", progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("target", "format_name", "message"),
    [
        ("out.gguf", "q3", "no format 'q3'"),
        ("out", "q4_k_m", "a format of GGUF files"),
        ("out.gguf", "fp8", "a format of safetensors"),
        ("missing/out.gguf", "q8_0", "no such folder"),
        ("source", "fp8", "over itself"),
        ("taken.gguf", "q8_0", "exists already"),
    ],
)
def test_targets_that_do_not_suit(
    target: str, format_name: str, message: str, tmp_path: Path
) -> None:
    source = write_safetensors(tmp_path / "source")
    (tmp_path / "taken.gguf").write_text("mine")
    with pytest.raises(EngineError, match=message):
        quantize_checkpoint(source, tmp_path / target, format_name)
    assert left_in(tmp_path) == {"source", "taken.gguf"}
    assert (tmp_path / "taken.gguf").read_text() == "mine"


def test_only_a_model_is_replaced_and_only_on_request(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "source")
    quantize_checkpoint(source, tmp_path / "out", "bf16")
    quantize_checkpoint(source, tmp_path / "out", "fp8", replace=True)
    assert "quantization_config" in json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "work", tmp_path):
        with pytest.raises(EngineError, match="not a model"):
            quantize_checkpoint(source, folder, "fp8", replace=True)
    assert left_in(tmp_path / "work") == {"thesis.txt"}


def test_safetensors_cannot_be_made_of_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    with pytest.raises(UnsupportedModel, match="GGUF file cannot be turned"):
        quantize_checkpoint(tmp_path / "a.gguf", tmp_path / "out", "fp8")


@pytest.mark.parametrize("format_name", ["q4_k_m", "fp8", "bf16"])
@pytest.mark.parametrize("part", ["mlp.up_proj", "input_layernorm"])
def test_weights_without_a_code_are_an_error_that_names_them(
    format_name: str, part: str, tmp_path: Path
) -> None:
    weights = random_weights(random_config("qwen3"))
    weights[f"model.layers.1.{part}.weight"].view(-1)[5] = math.nan
    source = write_safetensors(tmp_path / "source", weights=weights)
    with pytest.raises(CheckpointError, match=r"1\..*weight.*NaN"):
        quantize_checkpoint(source, target_of(tmp_path, format_name), format_name)
    assert left_in(tmp_path) == {"source"}


def test_an_error_in_between_leaves_nothing(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "source")
    num_threads = torch.get_num_threads()

    def stop(fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    for target, format_name in (("out.gguf", "q8_0"), ("out", "fp8")):
        with pytest.raises(KeyboardInterrupt):
            quantize_checkpoint(source, tmp_path / target, format_name, progress=stop)
    assert left_in(tmp_path) == {"source"}
    assert torch.get_num_threads() == num_threads


def test_a_disk_that_is_too_small_is_told_before(tmp_path: Path) -> None:
    """A model of half of what is free, in 16 bits, does not fit in 32."""
    hidden, free = 2**16, shutil.disk_usage(tmp_path).free
    source = write_hollow_safetensors(
        tmp_path / "source",
        hidden_size=hidden,
        num_hidden_layers=64,
        intermediate_size=free // 4 // 64 // 3 // hidden + 1,
        tie_word_embeddings=True,
    )
    with pytest.raises(EngineError, match=r"not enough disk space .* GB needed"):
        quantize_checkpoint(source, tmp_path / "out.gguf", "f32")
    assert left_in(tmp_path) == {"source"}


MEASURE = """
import sys
from pathlib import Path
from qcode.engine.conversion.quantize import quantize_checkpoint
import qcode.engine.models.loading

def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
before = peak()
quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounting")
@pytest.mark.parametrize("format_name", ["q8_0", "fp8"])
def test_memory_does_not_grow_with_the_model(format_name: str, tmp_path: Path) -> None:
    """120 MB and 250 MB of weights, one matrix of which has 100 MB."""
    peaks = []
    for number, num_layers in enumerate((1, 8)):
        source = write_hollow_safetensors(
            tmp_path / f"source-{number}",
            vocab_size=50_000,
            hidden_size=1024,
            intermediate_size=1536,
            num_hidden_layers=num_layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        )
        target = target_of(tmp_path, format_name).with_stem(f"out-{number}")
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(source), str(target), format_name],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(done.stdout) / 1024)
    print(f"{format_name}: {peaks[0]:.0f} MB and {peaks[1]:.0f} MB over what imports take")
    small, large = peaks
    assert large < 300
    assert large < small + 50
