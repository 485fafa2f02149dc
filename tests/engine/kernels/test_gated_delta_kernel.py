"""The compiled step of a Gated DeltaNet layer against the one in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.layers.cache import DeltaState
from qcode.engine.layers.gated_delta import decode_step

RandomTensor = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("key_heads", "value_heads", "key_dim", "value_dim", "taps"),
    [(16, 32, 128, 128, 4), (2, 6, 8, 16, 4), (1, 1, 5, 3, 2), (3, 3, 64, 32, 1)],
)
@pytest.mark.parametrize("num_sequences", [0, 1, 2, 7])
def test_a_step_is_that_of_the_reference(
    library: KernelLibrary,
    random_tensor: RandomTensor,
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
    taps: int,
    num_sequences: int,
) -> None:
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    weight = random_tensor(channels, taps)
    states = [
        DeltaState(conv=conv.clone(), recurrent=recurrent.clone())
        for conv, recurrent in [
            (
                random_tensor(9, channels, taps - 1),
                random_tensor(9, value_heads, key_dim, value_dim),
            )
        ]
        for _ in range(2)
    ]
    slots = torch.tensor([4, 8, 0, 2, 7, 1, 3])[:num_sequences]
    for size in (1.0, 30.0, 0.0):
        qkv = random_tensor(num_sequences, channels) * size
        g = -random_tensor(num_sequences, value_heads).abs() * max(size, 1.0)
        beta = random_tensor(num_sequences, value_heads).sigmoid()
        expected = decode_step(qkv, g, beta, weight, states[0], slots)
        actual = library.gated_delta_step(
            qkv, g, beta, weight, states[1].conv, states[1].recurrent, slots
        )
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states[1].recurrent, states[0].recurrent, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states[1].conv, states[0].conv, rtol=0, atol=0)
