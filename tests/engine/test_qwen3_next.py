"""The hybrid network computes what transformers computes, however prompts are cut into steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from paged_run import PagedRun
from quantized_checkpoint import FORMATS, write_quantized
from random_checkpoint import random_config, random_weights, write_gguf, write_safetensors
from torch import Tensor
from transformers_logits import assert_close, reference_logits

from qcode.engine.layers.cache import DeltaState
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.models.qwen3_next import Qwen3Next
from qcode.protocol.errors import CheckpointError

FAMILY = "qwen3_next"
LAYERS = {"num_hidden_layers": 4, "full_attention_interval": 4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def random_tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 389, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


TOKENS = random_tokens(150, seed=3)
"""Not a multiple of the 64 tokens that are worked out at once."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("model"), FAMILY, **LAYERS)


@pytest.fixture(scope="module")
def expected(directory: Path) -> Tensor:
    return reference_logits(directory, TOKENS)


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory)


def test_whole_prefill(loaded: LoadedModel, expected: Tensor) -> None:
    assert isinstance(loaded.model, Qwen3Next)
    assert_close(PagedRun(loaded).step({0: TOKENS}), expected)


@pytest.mark.parametrize("size", [7, 63, 64, 65, 149])
def test_prefill_in_chunks(size: int, loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    parts = [run.step({0: TOKENS[start : start + size]}) for start in range(0, 150, size)]
    assert_close(torch.cat(parts), expected)


def test_decode_token_by_token(loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    assert_close(torch.cat([run.step({0: [token]}) for token in TOKENS]), expected)


def test_sequences_of_one_batch_do_not_see_each_other(loaded: LoadedModel, directory: Path) -> None:
    """Prompts of several lengths, cut unevenly, beside sequences that decode."""
    prompts = [random_tokens(count, seed=count) for count in (90, 33, 70, 5)]
    cuts = [
        {0: 64, 1: 1, 3: 3},
        {2: 65, 0: 1, 3: 1, 1: 30},
        {0: 1, 1: 1, 2: 1, 3: 1},
        {1: 1, 0: 24, 2: 4},
    ]
    run = PagedRun(loaded, num_sequences=4, num_blocks=100)
    logits: dict[int, list[Tensor]] = {sequence: [] for sequence in range(4)}
    for cut in cuts:
        rows = run.step(
            {
                sequence: prompts[sequence][run.lengths[sequence] :][:count]
                for sequence, count in cut.items()
            }
        )
        for sequence, part in zip(cut, rows.split(list(cut.values())), strict=True):
            logits[sequence].append(part)
    for sequence, prompt in enumerate(prompts):
        assert run.lengths[sequence] == len(prompt)
        assert_close(torch.cat(logits[sequence]), reference_logits(directory, prompt))


def test_a_sequence_goes_on_from_a_copy_of_its_state(loaded: LoadedModel, expected: Tensor) -> None:
    """All that a linear layer remembers is its row: put back, the sequence is where it was."""
    run = PagedRun(loaded)
    run.step({0: TOKENS[:80]})
    states = [cache for cache in run.caches if isinstance(cache, DeltaState)]
    kept = [(state.conv.clone(), state.recurrent.clone()) for state in states]
    run.step({0: random_tokens(20, seed=9)})
    for state, (conv, recurrent) in zip(states, kept, strict=True):
        state.conv.copy_(conv)
        state.recurrent.copy_(recurrent)
    run.lengths[0] = 80
    assert_close(run.step({0: TOKENS[80:]}), expected[80:])


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention", "linear_attention", "linear_attention"]},
        {"layer_types": ["full_attention"] * 3, "partial_rotary_factor": 1.0},
        {"layer_types": ["linear_attention"] * 3},
        {"full_attention_interval": 3},
        {"linear_num_key_heads": 4},
        {"linear_num_value_heads": 6, "linear_key_head_dim": 16, "linear_value_head_dim": 8},
        {"linear_num_key_heads": 1, "linear_conv_kernel_dim": 3},
        {"tie_word_embeddings": True, "attention_bias": True},
        {"norm_topk_prob": False, "num_experts_per_tok": 1},
        {"mlp_only_layers": [0], "shared_expert_intermediate_size": 48},
        {"decoder_sparse_step": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5},
        {"rope_scaling": YARN, "head_dim": 64},
        {"rope_parameters": {**YARN, "rope_theta": 5e4, "partial_rotary_factor": 0.5}},
    ],
)
def test_what_a_checkpoint_may_vary(changes: dict[str, object], tmp_path: Path) -> None:
    write_safetensors(tmp_path, FAMILY, **changes)
    run = PagedRun(load_model(tmp_path))
    parts = [run.step({0: TOKENS[:70]})] + [run.step({0: [token]}) for token in TOKENS[70:75]]
    assert_close(torch.cat(parts), reference_logits(tmp_path, TOKENS[:75]))


def test_layers_that_predict_further_ahead_are_left_out(
    loaded: LoadedModel, expected: Tensor, tmp_path: Path
) -> None:
    config = random_config(FAMILY, **LAYERS)
    hidden = config["hidden_size"]
    ahead = {
        "mtp.fc.weight": torch.randn(hidden, 2 * hidden),
        "mtp.norm.weight": torch.randn(hidden),
        "mtp.layers.0.input_layernorm.weight": torch.randn(hidden),
    }
    write_safetensors(tmp_path, FAMILY, weights=random_weights(config) | ahead, **LAYERS)
    assert_close(PagedRun(load_model(tmp_path)).step({0: TOKENS}), expected)
    write_gguf(tmp_path / "model.gguf", FAMILY, num_nextn_predict_layers=1, **LAYERS)
    from_gguf = load_model(tmp_path / "model.gguf")
    assert from_gguf.config.num_layers == 4
    assert from_gguf.config.linear_attention == loaded.config.linear_attention
    assert_close(PagedRun(from_gguf).step({0: TOKENS}), expected)


@pytest.mark.parametrize("grouped_inputs", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("matrix_type", ["F32", "Q8_0"])
def test_both_layouts_of_gguf_equal_safetensors(
    grouped_inputs: bool, matrix_type: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    weights = write_gguf(
        path, FAMILY, matrix_type=matrix_type, grouped_inputs=grouped_inputs, **LAYERS
    )
    write_safetensors(tmp_path, FAMILY, weights=weights, **LAYERS)
    run = PagedRun(load_model(path, exact=True))
    assert_close(run.step({0: TOKENS}), reference_logits(tmp_path, TOKENS))


@pytest.mark.parametrize("name", ["float-quantized-blocks", "awq-group32", "nvfp4"])
def test_packed_weights_stay_as_they_are_stored(name: str, tmp_path: Path) -> None:
    """The inputs of linear attention are put in order after the product, whatever the format."""
    form = next(form for form in FORMATS if form.name == name)
    packed = write_quantized(tmp_path / "packed", FAMILY, form, mlp_only_layers=[])
    write_safetensors(
        tmp_path, FAMILY, weights=packed.decoded, num_hidden_layers=2, mlp_only_layers=[]
    )
    assert "model.layers.0.linear_attn.in_proj_qkvz" in packed.parts
    run = PagedRun(load_model(packed.directory, exact=True))
    assert_close(run.step({0: TOKENS}), reference_logits(tmp_path, TOKENS))


def test_bfloat16_is_as_close_as_that_of_transformers(directory: Path, expected: Tensor) -> None:
    """Both round every activation, so both drift; norms, gates and states stay in float32."""

    def median_error(logits: Tensor) -> float:
        return ((logits - expected).norm(dim=-1) / expected.norm(dim=-1)).median().item()

    loaded = load_model(directory, dtype=torch.bfloat16)
    run = PagedRun(loaded, dtype=torch.bfloat16)
    ours = torch.cat([run.step({0: TOKENS[a:b]}) for a, b in pairwise((0, 100, 149, 150))])
    theirs = reference_logits(directory, TOKENS, torch.bfloat16)
    assert median_error(ours) < 1.2 * median_error(theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_key_heads": 4}, r"in_proj_qkvz\S+ is \[160, 64\].*\[192, 64\]"),
        ({"linear_conv_kernel_dim": 3}, r"conv1d\S+ is \[96, 1, 4\].*\[96, 1, 3\]"),
        ({"full_attention_interval": 3}, r"layers\.1\.linear_attn\.in_proj\S+ is missing"),
    ],
)
def test_a_config_that_the_tensors_contradict(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    weights = random_weights(random_config(FAMILY))
    write_safetensors(tmp_path, FAMILY, weights=weights, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)
