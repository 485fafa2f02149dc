"""Every quantised safetensors format: read where it lies, to the values its specification gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from paged_run import PagedRun
from quantized_checkpoint import FORMATS, Format, Parts, Quantized, write_quantized
from random_checkpoint import Family, Weights, write_safetensors
from safetensors import safe_open
from torch import Tensor

from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.models.loading import load_model
from qcode.engine.quantization.weight_format import DecodedWeight, DenseWeight

TOKENS = torch.randint(0, 389, (19,), generator=torch.Generator().manual_seed(3)).tolist()
FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def opened(directory: Path) -> SafetensorsCheckpoint:
    return SafetensorsCheckpoint(directory, torch.float32, torch.device("cpu"))


def logits(directory: Path) -> Tensor:
    return PagedRun(load_model(directory)).step({0: TOKENS})


def plain_logits(directory: Path, family: Family, weights: Weights, **changes: object) -> Tensor:
    """What a checkpoint with these float32 weights gives."""
    changes = {"num_hidden_layers": 2, "mlp_only_layers": [1], **changes}
    return logits(write_safetensors(directory, family, weights=weights, **changes))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.fixture(scope="module", params=FORMATS, ids=lambda form: form.name)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """A dense network with biases."""
    return write_quantized(tmp_path_factory.mktemp("packed"), "qwen2", request.param)


@pytest.fixture
def form(written: Quantized) -> Format:
    return written.form


def weights(written: Quantized) -> Iterator[tuple[DecodedWeight, Tensor, Parts]]:
    """Each quantised matrix as read, as it should be, and the tensors of the file."""
    checkpoint = opened(written.directory)
    assert len(written.parts) == 13
    for module, parts in written.parts.items():
        expected = written.decoded[f"{module}.weight"]
        weight = checkpoint.weight(f"{module}.weight", (expected.shape[0], expected.shape[1]))
        assert isinstance(weight, DecodedWeight)
        yield weight, expected, parts


def test_values_are_those_of_an_independent_decoder(written: Quantized, form: Format) -> None:
    ids = torch.tensor([17, 0, 30, 17])
    for weight, expected, _ in weights(written):
        assert weight.shape == tuple(expected.shape)
        check_values(weight.dequantize(), expected, form)
        check_values(weight.rows(ids), expected[ids], form)
        check_values(weight.decode(slice(3, 29)), expected[3:29], form)
        assert weight.rows(ids[:0]).shape == (0, expected.shape[1])
        x = torch.randn(5, expected.shape[1], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(weight.linear(x), x @ expected.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weight.linear(x[:1]), x[:1] @ expected.T, rtol=1e-4, atol=1e-5)


def check_values(actual: Tensor, expected: Tensor, form: Format) -> None:
    assert actual.dtype == torch.float32
    if form.exact:
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_weights_stay_packed_in_the_mapped_file(written: Quantized) -> None:
    file_bytes = (written.directory / "model.safetensors").stat().st_size
    for weight, _, parts in weights(written):
        mapped = [t.nbytes for t in weight.stored if t.untyped_storage().nbytes() == file_bytes]
        assert weight.num_bytes == sum(mapped)
        assert sum(mapped) >= sum(t.nbytes for t in parts.values() if t.dim() == 2)


def test_a_dense_network_computes_what_its_unpacked_weights_do(
    written: Quantized, form: Format, tmp_path: Path
) -> None:
    actual = logits(written.directory)
    assert_close(actual, plain_logits(tmp_path / "unpacked", "qwen2", written.decoded))
    original = plain_logits(tmp_path / "original", "qwen2", written.original)
    assert 0 < ((actual - original).norm() / original.norm()).item() < form.error


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_experts_one_by_one(form: Format, tmp_path: Path) -> None:
    check_experts(write_quantized(tmp_path / "packed", "qwen3_moe", form, **FEW_EXPERTS), tmp_path)


@pytest.mark.parametrize("form", [f for f in FORMATS if f.stacks], ids=lambda form: form.name)
def test_experts_in_one_tensor(form: Format, tmp_path: Path) -> None:
    written = write_quantized(tmp_path / "packed", "qwen3_moe", form, stacked=True, **FEW_EXPERTS)
    check_experts(written, tmp_path)


def check_experts(written: Quantized, path: Path) -> None:
    expected = plain_logits(path / "unpacked", "qwen3_moe", written.decoded, **FEW_EXPERTS)
    assert_close(logits(written.directory), expected)
    check_mix(written)


def check_mix(written: Quantized) -> None:
    """Every byte is accounted for, under the name of the format where it is in the format."""
    mix, form = opened(written.directory).format_mix(), written.form
    file = (written.directory / "model.safetensors").read_bytes()
    assert sum(mix.values()) == len(file) - 8 - int.from_bytes(file[:8], "little")
    # In matrices as small as these a group or a block may be the whole row or matrix.
    kind = form.mix.split()[0]
    assert mix.keys() <= {form.mix, "BF16", "F32", kind, f"{kind} channel"}
    packed = sum(mix[name] for name in mix.keys() - {"BF16", "F32"})
    assert packed >= sum(t.nbytes for parts in written.parts.values() for t in parts.values()) - 200
    assert mix[form.mix] > packed / 2


def test_a_sequence_decoded_token_by_token(tmp_path: Path) -> None:
    write_quantized(tmp_path, "qwen3_moe", FORMATS[0], stacked=True, **FEW_EXPERTS)
    run = PagedRun(load_model(tmp_path))
    step_by_step = torch.cat([run.step({0: [token]}) for token in TOKENS])
    assert_close(step_by_step, logits(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unpacked_matrices_are_views_of_the_file_too(dtype: torch.dtype, tmp_path: Path) -> None:
    write_safetensors(tmp_path, "qwen3", dtype=dtype)
    checkpoint = opened(tmp_path)
    weight = checkpoint.weight("model.embed_tokens.weight", (400, 64))
    assert isinstance(weight, DenseWeight)
    assert weight.tensor.dtype == dtype
    file = tmp_path / "model.safetensors"
    assert weight.tensor.untyped_storage().nbytes() == file.stat().st_size
    with safe_open(file, "pt") as tensors:
        assert torch.equal(weight.tensor, tensors.get_tensor("model.embed_tokens.weight"))
