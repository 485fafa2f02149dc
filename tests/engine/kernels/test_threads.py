"""The threads that share a kernel's work: all is done, whoever calls and however many help."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from qcode.engine.kernels import reference
from qcode.engine.kernels.library import KernelLibrary

Q8_0 = 8


@pytest.fixture(params=[1, 2, 5])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def product(library: KernelLibrary, x: Tensor) -> Tensor:
    """x times a weight whose 1000 rows are the numbers 0 to 7, with a scale of one, in turn."""
    rows = torch.zeros(1000, 34, dtype=torch.uint8)
    rows[:, 1] = 0x3C
    rows[:, 2:] = (torch.arange(1000) % 8)[:, None]
    packed = library.pack(rows.flatten(), Q8_0, (1000, 32))
    return library.multiply(packed, Q8_0, (1000, 32), x)


def test_every_row_is_computed_in_each_of_many_calls(
    library: KernelLibrary, num_threads: int
) -> None:
    x = torch.ones(3, 32)
    expected = (32.0 * (torch.arange(1000) % 8)).expand(3, 1000)
    for _ in range(200):
        torch.testing.assert_close(product(library, x), expected, rtol=1e-5, atol=1e-4)


def test_calls_from_several_threads_at_once(
    library: KernelLibrary, random_tensor: Callable[..., Tensor]
) -> None:
    inputs = [random_tensor(300, 512) for _ in range(16)]
    weight = torch.ones(512)

    def normalise(x: Tensor) -> Tensor:
        torch.set_num_threads(3)  # holds for the calling thread
        return library.rms_norm(x, weight, 1e-6)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(normalise, inputs))

    for x, result in zip(inputs, results, strict=True):
        expected = reference.rms_norm(x, weight, 1e-6)
        torch.testing.assert_close(result, expected, rtol=3e-6, atol=1e-6)


def test_a_forked_child_gets_threads_of_its_own(
    library: KernelLibrary, num_threads: int, random_tensor: Callable[..., Tensor]
) -> None:
    x, weight = random_tensor(300, 512), torch.ones(512)
    expected = library.rms_norm(x, weight, 1e-6)

    child = os.fork()
    if child == 0:
        # Only our kernels: torch's own threads do not survive a fork.
        try:
            same = library.rms_norm(x, weight, 1e-6).numpy().tobytes()
            os._exit(0 if same == expected.numpy().tobytes() else 1)
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
