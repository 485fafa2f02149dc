"""The compiled kernels against their torch definitions, and how they are found."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qcode.engine import kernels
from qcode.engine.kernels import build, reference
from qcode.engine.kernels.library import (
    CACHE_FORMATS,
    VARIABLE,
    KernelLibrary,
    StaleLibrary,
    load,
    status,
)
from qcode.engine.kernels.reference import quantize

RandomTensor = Callable[..., Tensor]


@pytest.mark.parametrize("shape", [(0, 64), (1, 1536), (3, 7), (40, 896)])
def test_rms_norm(
    library: KernelLibrary, shape: tuple[int, int], random_tensor: RandomTensor
) -> None:
    x, weight = random_tensor(*shape) * 3, random_tensor(shape[1])
    expected = reference.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(library.rms_norm(x, weight, 1e-6), expected, rtol=3e-6, atol=1e-6)
    zero = torch.zeros(2, 32)
    assert torch.equal(library.rms_norm(zero, torch.ones(32), 1e-6), zero)


@pytest.mark.parametrize("shape", [(0, 8), (1, 5), (3, 4864), (17, 2049)])
def test_silu_and_mul(
    library: KernelLibrary, shape: tuple[int, int], random_tensor: RandomTensor
) -> None:
    gate, up = random_tensor(*shape) * 8, random_tensor(*shape)
    expected = reference.silu_and_mul(gate, up)
    torch.testing.assert_close(library.silu_and_mul(gate, up), expected, rtol=2e-6, atol=1e-7)


def test_silu_and_mul_far_from_zero(library: KernelLibrary) -> None:
    gate = torch.tensor([-1e30, -1000, -88, -50, 0, 50, 88, 1000, 1e30])
    up = torch.ones(9)
    expected = reference.silu_and_mul(gate, up)
    torch.testing.assert_close(library.silu_and_mul(gate, up), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("half", [8, 16, 6, 0])
def test_rotary(library: KernelLibrary, half: int, random_tensor: RandomTensor) -> None:
    x, angles = random_tensor(5, 3, 32), random_tensor(5, half)
    cos, sin = angles.cos(), angles.sin()
    expected = reference.apply_rotary(x, cos, sin)
    torch.testing.assert_close(library.apply_rotary(x, cos, sin), expected, rtol=1e-6, atol=1e-6)
    heads_of_wider_rows = random_tensor(5, 200)[:, 20:116].view(5, 3, 32)
    torch.testing.assert_close(
        library.apply_rotary(heads_of_wider_rows, cos, sin),
        reference.apply_rotary(heads_of_wider_rows, cos, sin),
        rtol=1e-6,
        atol=1e-6,
    )


def attention_inputs(
    random_tensor: RandomTensor,
    sequences: list[tuple[int, int]],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int = 16,
) -> tuple[Tensor, ...]:
    """Arguments of paged_attention for (queries, context) pairs, on shuffled blocks."""
    widths = [-(-context // block_size) for _, context in sequences]
    order = torch.randperm(sum(widths) + 2, generator=torch.Generator().manual_seed(1)).int()
    tables = torch.full((len(sequences), max(widths)), -1, dtype=torch.int32)
    used = 0
    for row, width in enumerate(widths):
        tables[row, :width] = order[used : used + width]
        used += width
    counts = torch.tensor([0, *(count for count, _ in sequences)])
    cache_shape = (sum(widths) + 2, kv_heads, block_size, head_dim)
    return (
        random_tensor(int(counts.sum()), heads, head_dim),
        random_tensor(*cache_shape),
        random_tensor(*cache_shape),
        tables,
        counts.cumsum(0).int(),
        torch.tensor([context for _, context in sequences], dtype=torch.int32),
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(14, 2, 64), (12, 2, 128), (4, 4, 32), (3, 1, 80), (8, 1, 256)],
)
@pytest.mark.parametrize(
    "sequences",
    [
        [(1, 1)],
        [(1, 1500)],
        [(40, 40)],
        [(33, 500)],
        [(1, 31), (3, 33), (1, 700), (20, 64), (5, 5)],
    ],
    ids=["first token", "long decode", "prompt", "later chunk", "mixed"],
)
@pytest.mark.parametrize("cache", [torch.float32, torch.float16])
def test_paged_attention(
    library: KernelLibrary,
    heads: int,
    kv_heads: int,
    head_dim: int,
    sequences: list[tuple[int, int]],
    cache: torch.dtype,
    random_tensor: RandomTensor,
) -> None:
    q, k, v, *rest = attention_inputs(random_tensor, sequences, heads, kv_heads, head_dim)
    arguments = (q, k.to(cache), v.to(cache), *rest, head_dim**-0.5)
    expected = reference.paged_attention(*arguments)
    actual = library.paged_attention(*arguments)
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(14, 2, 64), (3, 1, 80)])
@pytest.mark.parametrize("cache", CACHE_FORMATS)
def test_paged_attention_in_every_format(
    library: KernelLibrary,
    heads: int,
    kv_heads: int,
    head_dim: int,
    cache: torch.dtype,
    random_tensor: RandomTensor,
) -> None:
    sequences = [(1, 31), (3, 33), (1, 700), (20, 64), (5, 5)]
    q, k, v, *rest = attention_inputs(random_tensor, sequences, heads, kv_heads, head_dim)
    # Vectors of very different lengths: each has a scale of its own.
    k, v = k * random_tensor(*k.shape[:3], 1), v * random_tensor(*v.shape[:3], 1).exp()
    (k, k_scales), (v, v_scales) = stored(k, cache), stored(v, cache)
    arguments = (q, k, v, *rest, head_dim**-0.5, k_scales, v_scales)
    expected = reference.paged_attention(*arguments)
    actual = library.paged_attention(*arguments)
    # Against int8, queries and weights are rounded to 16 bits.
    bound = 5e-4 if cache == torch.int8 else 2e-6
    torch.testing.assert_close(actual, expected, rtol=max(bound, 2e-5), atol=bound)


@pytest.mark.parametrize("cache", CACHE_FORMATS)
@pytest.mark.parametrize(("heads", "head_dim", "block_size"), [(12, 128, 16), (5, 64, 3)])
def test_results_do_not_depend_on_the_batch(
    library: KernelLibrary,
    cache: torch.dtype,
    heads: int,
    head_dim: int,
    block_size: int,
    random_tensor: RandomTensor,
) -> None:
    """Sequences of one query, of a few and of many, of none, alone and together, over keys that are
    divided by channels and of sizes from tiny to huge."""
    sequences = [(1, 1), (0, 70), (4, 1029), (1, 2085), (9, 9), (65, 131)]
    q, k, v, tables, starts, lengths = attention_inputs(
        random_tensor, sequences, heads, 1, head_dim, block_size
    )
    scale = head_dim**-0.5
    channels = torch.where(random_tensor(1, head_dim) > 1, 16.0, 1.0)
    k, v = k * random_tensor(*k.shape[:3], 1).exp(), v * (2 * random_tensor(*v.shape[:3], 1)).exp()
    (k, k_scales), (v, v_scales) = stored(k / channels, cache), stored(v, cache)
    factors = (k_scales, v_scales, channels)
    expected = reference.paged_attention(q, k, v, tables, starts, lengths, scale, *factors)
    together = library.paged_attention(q, k, v, tables, starts, lengths, scale, *factors)
    bound = 2e-3 if cache == torch.int8 else 5e-5
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(together / size, expected / size, rtol=bound, atol=bound)
    for i in range(len(sequences)):
        rows = slice(int(starts[i]), int(starts[i + 1]))
        own = torch.tensor([0, rows.stop - rows.start], dtype=torch.int32)
        alone = library.paged_attention(
            q[rows], k, v, tables[i : i + 1], own, lengths[i : i + 1], scale, *factors
        )
        torch.testing.assert_close(alone / size, together[rows] / size, rtol=bound, atol=bound)


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_any_number_of_threads_gives_the_same(
    library: KernelLibrary, threads: int, random_tensor: RandomTensor
) -> None:
    arguments = (*attention_inputs(random_tensor, [(1, 5000), (3, 40)], 6, 2, 64), 0.125)
    expected = reference.paged_attention(*arguments)  # type: ignore[arg-type]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = library.paged_attention(*arguments)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)


def stored(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """As a cache of this dtype keeps x, with the scales of eight-bit ones."""
    return quantize(x, dtype) if dtype.itemsize == 1 else (x.to(dtype), None)


@pytest.mark.parametrize("cache", [torch.float8_e4m3fn, torch.bfloat16, torch.float16])
def test_every_value_a_cache_can_hold_is_read_exactly(
    library: KernelLibrary, cache: torch.dtype
) -> None:
    """One key is seen by one query, whose answer is then its value."""
    width = 256
    codes = torch.arange(-128, 128) if cache.itemsize == 1 else torch.arange(-(2**15), 2**15)
    v = codes.to(torch.int8 if cache.itemsize == 1 else torch.int16).view(cache)
    values = v.float()
    v = torch.where(values.isfinite(), values, 0).to(cache).view(-1, 1, 1, width)
    q, k = torch.zeros(len(v), 1, width), torch.zeros_like(v)
    tables = torch.arange(len(v), dtype=torch.int32).view(-1, 1)
    starts = torch.arange(len(v) + 1, dtype=torch.int32)
    lengths = torch.ones(len(v), dtype=torch.int32)
    actual = library.paged_attention(q, k, v, tables, starts, lengths, 1.0)
    assert torch.equal(actual, v.flatten(1, 2).float())


@pytest.mark.parametrize("cache", CACHE_FORMATS)
def test_keys_and_values_are_written_as_the_reference_rounds_them(
    library: KernelLibrary, cache: torch.dtype, random_tensor: RandomTensor
) -> None:
    tokens, kv_heads, head_dim, block_size = 37, 3, 80, 5
    # From what is lost in half precision to what is too large for it.
    sizes = torch.logspace(-12, 6, tokens)[:, None, None]
    k, v = (random_tensor(tokens, kv_heads, head_dim) * sizes for _ in "kv")
    k[3], v[5, 1], v[7] = 0.0, 0.0, 1.0
    slots = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:tokens]
    written = []
    for kernel in (reference, library):
        caches = [torch.zeros(12, kv_heads, block_size, head_dim).to(cache) for _ in "kv"]
        scaled = cache.itemsize == 1
        scales = [torch.zeros(12, kv_heads, block_size) if scaled else None for _ in "kv"]
        kernel.write_cache(k, v, slots, *caches, *scales)
        written.append((caches, scales))
    (caches, scales), (expected_caches, expected_scales) = written[1], written[0]
    for one, other in zip(caches, expected_caches, strict=True):
        assert torch.equal(one.view(torch.int8), other.view(torch.int8))
    for scale, expected in zip(scales, expected_scales, strict=True):
        if scale is not None and expected is not None:
            assert torch.equal(scale, expected)


@pytest.mark.parametrize("cache", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_number_is_rounded_as_torch_rounds_it(
    library: KernelLibrary, cache: torch.dtype
) -> None:
    """Numbers between, on and halfway between those that the cache can hold."""
    codes = torch.arange(-128, 128) if cache.itemsize == 1 else torch.arange(-(2**15), 2**15)
    held = codes.to(torch.int8 if cache.itemsize == 1 else torch.int16).view(cache).float()
    held = held[held.isfinite()].sort().values
    middle = (held[:-1].double() + held[1:].double()) / 2
    near = torch.cat((held, *(middle.float() * factor for factor in (1, 1 - 1e-7, 1 + 1e-7))))
    near = near[: len(near) // 16 * 16]
    largest = torch.full((len(near) // 16, 16), float(held[-1]))
    x = torch.cat((near.view(-1, 16), largest), dim=1).unsqueeze(1)  # so that scales are 1
    caches = [torch.zeros(len(x), 1, 1, 32).to(cache) for _ in "kv"]
    scales = [torch.zeros(len(x), 1, 1) if cache.itemsize == 1 else None for _ in "kv"]
    library.write_cache(x, x, torch.arange(len(x)), *caches, *scales)
    expected = x.to(cache)
    for one in caches:
        assert torch.equal(one.flatten(1, 2).view(torch.int8), expected.view(torch.int8))


def test_attention_with_scores_far_apart(
    library: KernelLibrary, random_tensor: RandomTensor
) -> None:
    """One key outweighs all others; its row must win whichever range of keys it is in."""
    inputs = attention_inputs(random_tensor, [(1, 1300), (20, 600)], 4, 2, 32)
    arguments = (inputs[0] * 100, *inputs[1:], 1.0)
    expected = reference.paged_attention(*arguments)  # type: ignore[arg-type]
    actual = library.paged_attention(*arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_best_variant_of_a_directory_is_loaded(compiled_kernels: Path, tmp_path: Path) -> None:
    assert load(compiled_kernels).variant in build.variants()
    with pytest.raises(OSError, match="qcode_kernels_portable"):
        load(tmp_path)


def test_a_library_of_other_sources_is_refused(compiled_kernels: Path, tmp_path: Path) -> None:
    for library in compiled_kernels.glob("*.so"):
        shutil.copy(library, tmp_path)
    for pattern in ("*.cpp", "*.h"):
        for source in build.SOURCE_DIRECTORY.glob(pattern):
            shutil.copy(source, tmp_path)
    assert load(tmp_path).variant

    with (tmp_path / "matmul.h").open("a") as header:
        header.write("// changed")
    with pytest.raises(StaleLibrary, match=r"not compiled from the sources beside it"):
        load(tmp_path)
    with pytest.raises(StaleLibrary):
        load(tmp_path, "portable")


def test_a_library_that_names_no_sources_is_refused(tmp_path: Path) -> None:
    """As the first ones did."""
    source = tmp_path / "old.cpp"
    source.write_text('extern "C" const char* qcode_best_variant() { return "portable"; }\n')
    target = tmp_path / build.library_name("portable")
    subprocess.run([build.find_compiler(), "-shared", "-fPIC", source, "-o", target], check=True)
    with pytest.raises(StaleLibrary):
        load(tmp_path)


def test_a_stale_installation_computes_with_torch_and_says_what_to_do(
    compiled_kernels: Path, tmp_path: Path
) -> None:
    for library in compiled_kernels.glob("*.so"):
        shutil.copy(library, tmp_path)
    (tmp_path / "newer.cpp").write_text("// one more source")
    status = status_without_kernels(tmp_path)
    assert "older than their sources" in status
    assert "python -m qcode.engine.kernels.build" in status


def test_an_installation_without_libraries_says_that_it_is_slow(tmp_path: Path) -> None:
    status = status_without_kernels(tmp_path)
    assert "not compiled" in status
    assert "python -m qcode.engine.kernels.build" in status
    assert "many times slower" in status


def status_without_kernels(directory: Path) -> str:
    """What a process says whose kernels should be in a directory, and are not usable."""
    program = f"""
from pathlib import Path
from qcode.engine.kernels import library
library.DIRECTORY = Path({str(directory)!r})
assert library.installed() is None
print(library.status())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(kernels.__file__).parents[3],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_dispatch_falls_back_to_torch_for_other_dtypes(random_tensor: RandomTensor) -> None:
    x, weight = random_tensor(2, 8).double(), torch.ones(8).double()
    assert torch.equal(kernels.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("compiled", [True, False])
def test_dispatch_computes_the_same_with_and_without_the_library(compiled: bool) -> None:
    """In a process of its own, since the choice is made once."""
    program = """
import torch
from qcode.engine import kernels
from qcode.engine.kernels import library, reference
x, w = torch.randn(3, 32), torch.randn(32)
torch.testing.assert_close(kernels.rms_norm(x, w, 1e-6), reference.rms_norm(x, w, 1e-6))
torch.testing.assert_close(kernels.silu_and_mul(x, x), reference.silu_and_mul(x, x))
print(library.status())
"""
    setting = {VARIABLE: "" if compiled else "torch"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(kernels.__file__).parents[3],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **setting},
    )
    expected = status() if compiled else f"switched off by {VARIABLE}=torch"
    assert expected.split(",")[0] in done.stdout


def test_importing_the_package_loads_no_library() -> None:
    program = """
import sys
from qcode.engine import kernels
from qcode.engine.kernels import library
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
assert "qcode_kernels" not in maps
assert library._installed.cache_info().currsize == 0
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=Path(kernels.__file__).parents[3]
    )
