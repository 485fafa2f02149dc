"""The network computes what transformers computes, however a prompt is cut into steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from random_checkpoint import FAMILIES, Family, write_gguf, write_safetensors
from torch import Tensor
from transformers import AutoModelForCausalLM

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.models.loading import LoadedModel, load_model

BLOCK_SIZE = 4
NUM_BLOCKS = 64
TOLERANCE = 1e-4

TOKENS = torch.randint(0, 389, (37,), generator=torch.Generator().manual_seed(3)).tolist()
OTHER_TOKENS = torch.randint(0, 389, (11,), generator=torch.Generator().manual_seed(4)).tolist()


class PagedRun:
    """Feeds sequences to a model step by step, over a cache whose blocks lie in random order."""

    def __init__(self, loaded: LoadedModel, num_sequences: int = 1) -> None:
        config = loaded.config
        shape = (NUM_BLOCKS, BLOCK_SIZE, config.num_key_value_heads, config.head_dim)
        self.model = loaded.model
        # NaN in what was never written shows any read of it.
        self.kv = [
            (torch.full(shape, torch.nan), torch.full(shape, torch.nan))
            for _ in range(config.num_layers)
        ]
        order = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(5))
        self.block_tables = order.view(num_sequences, -1).int()
        self.lengths = [0] * num_sequences

    def step(self, tokens: dict[int, Sequence[int]]) -> Tensor:
        """Logits of all rows; `tokens` are the next ones of each sequence in the batch."""
        positions, slots, starts = [], [], [0]
        for sequence, ids in tokens.items():
            first = self.lengths[sequence]
            for position in range(first, first + len(ids)):
                block = int(self.block_tables[sequence, position // BLOCK_SIZE])
                positions.append(position)
                slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
            starts.append(len(positions))
            self.lengths[sequence] = first + len(ids)
        inputs = AttentionInputs(
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts, dtype=torch.int32),
            context_lens=torch.tensor([self.lengths[s] for s in tokens], dtype=torch.int32),
            block_tables=self.block_tables[list(tokens)],
        )
        ids = torch.tensor([token for part in tokens.values() for token in part])
        with torch.inference_mode():
            return self.model.logits(self.model.forward(ids, inputs, self.kv))


def reference_logits(directory: Path, tokens: Sequence[int]) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < tolerance


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def expected(directory: Path) -> Tensor:
    return reference_logits(directory, TOKENS)


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory)


def test_whole_prefill(loaded: LoadedModel, expected: Tensor) -> None:
    assert_close(PagedRun(loaded).step({0: TOKENS}), expected)


def test_prefill_in_chunks(loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    parts = [run.step({0: TOKENS[start : start + 7]}) for start in range(0, len(TOKENS), 7)]
    assert_close(torch.cat(parts), expected)


def test_decode_token_by_token(loaded: LoadedModel, expected: Tensor) -> None:
    run = PagedRun(loaded)
    assert_close(torch.cat([run.step({0: [token]}) for token in TOKENS]), expected)


def test_sequences_of_one_batch_do_not_see_each_other(
    loaded: LoadedModel, directory: Path, expected: Tensor
) -> None:
    other = reference_logits(directory, OTHER_TOKENS)
    run = PagedRun(loaded, num_sequences=2)
    first = run.step({1: OTHER_TOKENS[:-1], 0: TOKENS[:20]})
    second = run.step({0: TOKENS[20:], 1: OTHER_TOKENS[-1:]})
    assert_close(torch.cat([first[10:], second[:17]]), expected)
    assert_close(torch.cat([first[:10], second[17:]]), other)
