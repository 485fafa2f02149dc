from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_checkpoint import write_safetensors

from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.memory.budget import state_bytes
from qcode.engine.memory.recurrent_state import MAX_SNAPSHOTS, RecurrentStates, plan_state_slots
from qcode.engine.model_config import LinearAttentionConfig, ModelConfig
from qcode.engine.options import EngineOptions
from qcode.engine.scheduling.state_pool import StateCopy
from qcode.protocol.errors import OutOfMemory

CPU = torch.device("cpu")
LINEAR = LinearAttentionConfig(
    num_key_heads=2,
    num_value_heads=4,
    key_head_dim=8,
    value_head_dim=16,
    conv_kernel_size=4,
    layers=frozenset({0, 2}),
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    path: Path = write_safetensors(tmp_path_factory.mktemp("model"), "qwen3")
    return open_checkpoint(path, dtype=torch.float32, device="cpu").config


@pytest.fixture(scope="module")
def hybrid(dense: ModelConfig) -> ModelConfig:
    return replace(dense, linear_attention=LINEAR)


def test_states_have_the_shapes_that_layers_are_promised(hybrid: ModelConfig) -> None:
    states = RecurrentStates(hybrid, num_slots=3, dtype=torch.bfloat16, device=CPU)

    assert sorted(states.layers) == [0, 2]
    for layer in states.layers.values():
        assert layer.conv.shape == (3, 2 * 2 * 8 + 4 * 16, 3)
        assert layer.conv.dtype == torch.bfloat16
        assert layer.recurrent.shape == (3, 4, 8, 16)
        assert layer.recurrent.dtype == torch.float32


def test_copies_are_made_in_order_and_in_every_layer(hybrid: ModelConfig) -> None:
    states = RecurrentStates(hybrid, num_slots=4, dtype=torch.float32, device=CPU)
    tensors = [t for layer in states.layers.values() for t in (layer.conv, layer.recurrent)]
    for tensor in tensors:
        for slot in range(4):
            tensor[slot] = float("nan") if slot == 3 else slot

    states.copy(
        [
            StateCopy(source=1, target=0),
            StateCopy(source=2, target=1),
            StateCopy(source=None, target=3),
        ]
    )

    for tensor in tensors:
        for slot, value in enumerate([1, 2, 2, 0]):
            assert torch.equal(tensor[slot], torch.full_like(tensor[slot], value))


def test_what_is_planned_is_what_is_allocated(hybrid: ModelConfig) -> None:
    states = RecurrentStates(hybrid, num_slots=5, dtype=torch.float32, device=CPU)

    tensors = [t for layer in states.layers.values() for t in (layer.conv, layer.recurrent)]
    assert sum(tensor.nbytes for tensor in tensors) == 5 * state_bytes(hybrid)


def test_the_plan_keeps_to_its_share_of_the_memory(hybrid: ModelConfig) -> None:
    slot_bytes = state_bytes(hybrid)
    options = EngineOptions(max_sequences=4)

    def planned(options: EngineOptions, available_bytes: int) -> int:
        return plan_state_slots(hybrid, options, available_bytes=available_bytes)

    assert planned(options, 8 * 10 * slot_bytes) == 10
    assert planned(options, slot_bytes) == 1
    assert planned(options, 2**40) == 4 + MAX_SNAPSHOTS
    assert planned(replace(options, prefix_reuse=False), 2**40) == 4
    assert planned(replace(options, state_memory_bytes=7 * slot_bytes), 0) == 7


def test_no_room_for_one_state_is_said_with_numbers(hybrid: ModelConfig) -> None:
    # 2 layers of 4 * 8 * 16 and 96 * 3 values.
    assert state_bytes(hybrid) == 6400
    with pytest.raises(OutOfMemory, match=r"0\.01 MiB.* 0\.00 MiB"):
        plan_state_slots(hybrid, EngineOptions(), available_bytes=1000)


def test_a_model_without_linear_attention_has_no_states(dense: ModelConfig) -> None:
    assert plan_state_slots(dense, EngineOptions(), available_bytes=0) == 0
    assert not RecurrentStates(dense, num_slots=0, dtype=torch.float32, device=CPU).layers
